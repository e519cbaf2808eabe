//go:build linux && (amd64 || arm64) && !(cuda && cgo)

package libcuda

import (
	"cmp"
	"os"
	"reflect"

	"github.com/ebitengine/purego"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Load fills the driver's functions from its library.
func Load() (*driver.API, error) {
	name := cmp.Or(os.Getenv(EnvLibrary), Library)
	lib, err := purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, noDriver(name, err.Error())
	}
	api := &driver.API{}
	v := reflect.ValueOf(api).Elem()
	for i := range v.NumField() {
		symbol := v.Type().Field(i).Tag.Get("cuda")
		f, err := purego.Dlsym(lib, symbol)
		if err != nil {
			return nil, missing(name, symbol)
		}
		purego.RegisterFunc(v.Field(i).Addr().Interface(), f)
	}
	return api, nil
}
