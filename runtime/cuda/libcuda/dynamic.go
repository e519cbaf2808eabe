//go:build linux && (amd64 || arm64) && !(cuda && cgo)

package libcuda

import (
	"reflect"

	"github.com/ebitengine/purego"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// open fills the driver's functions from one library. What they are given stays
// where it is until a call returns: purego holds its arguments.
func open(name string) (*driver.API, error) {
	lib, err := purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, err
	}
	api := &driver.API{}
	v := reflect.ValueOf(api).Elem()
	for i := range v.NumField() {
		symbol := v.Type().Field(i).Tag.Get("cuda")
		if symbol == "" {
			continue
		}
		f, err := purego.Dlsym(lib, symbol)
		if err != nil {
			return nil, missing(symbol)
		}
		if api.Library == "" {
			api.Library = file(f)
		}
		purego.RegisterFunc(v.Field(i).Addr().Interface(), f)
	}
	return api, nil
}
