package gpucheck

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
)

// JSON is the report as it is kept. Numbers that are not finite, which JSON does
// not have, become 0 and problems of the report.
func (r *Report) JSON() ([]byte, error) {
	if bad := finite(r); len(bad) > 0 {
		r.Problems, r.Passed = append(r.Problems, bad...), false
	}
	data, err := json.MarshalIndent(r, "", " ")
	return append(data, '\n'), err
}

// finite puts 0 in place of the numbers behind a pointer that are not finite, and
// says which they were.
func finite(p any) (bad []string) {
	v := reflect.ValueOf(p).Elem()
	walkFinite(v, v.Type().Name(), &bad)
	return bad
}

func walkFinite(v reflect.Value, at string, bad *[]string) {
	switch v.Kind() {
	case reflect.Float64, reflect.Float32:
		if x := v.Float(); (math.IsNaN(x) || math.IsInf(x, 0)) && v.CanSet() {
			*bad = append(*bad, fmt.Sprintf("%s is %v: want a finite number", at, x))
			v.SetFloat(0)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			walkFinite(v.Elem(), at, bad)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walkFinite(v.Index(i), fmt.Sprintf("%s[%d]", at, i), bad)
		}
	case reflect.Struct:
		if k := v.FieldByName("Kernel"); k.IsValid() && k.Kind() == reflect.String {
			at += " of " + k.String()
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				walkFinite(v.Field(i), at+"."+name, bad)
			}
		}
	}
}
