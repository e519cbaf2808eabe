package gpu

import (
	"reflect"
	"regexp"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// launchOf is all of a row that a launcher goes by, and the gates' numbers.
func launchOf(k Kernel) Kernel {
	k.Name, k.Plan, k.Shape, k.Tile = "", nil, table.Shape{}, table.Tile{}
	return k
}

// leaves calls f with every number, word and flag of v, which can be set.
func leaves(v reflect.Value, f func(path string, leaf reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			leaves(v.Field(i), func(path string, leaf reflect.Value) { f("."+v.Type().Field(i).Name+path, leaf) })
		}
	case reflect.Array, reflect.Slice:
		for i := range v.Len() {
			leaves(v.Index(i), func(path string, leaf reflect.Value) { f("[]"+path, leaf) })
		}
	default:
		f("", v)
	}
}

// changes calls f with the leaf changed in some ways, and then puts it back.
func changes(leaf reflect.Value, f func()) {
	old := reflect.ValueOf(leaf.Interface())
	defer leaf.Set(old)
	switch leaf.Kind() {
	case reflect.Int:
		for _, n := range []int64{2*old.Int() + 1, old.Int() + 1, 2 * old.Int(), old.Int() - 1, old.Int() / 2} {
			leaf.SetInt(n)
			f()
		}
	case reflect.Bool:
		leaf.SetBool(!old.Bool())
		f()
	case reflect.String:
		words := []string{"", old.String() + "x"}
		switch leaf.Interface().(type) {
		case table.Pass:
			words = []string{string(table.Forward), string(table.BackwardData), string(table.BackwardWeight)}
		case table.Epilogue:
			words = nil
			for _, e := range table.Epilogues() {
				words = append(words, string(e))
			}
		case table.Precision:
			words = []string{string(table.BF16), string(table.Float32s)}
		case table.AttendPass:
			words = []string{string(table.AttendForward), string(table.AttendDelta), string(table.AttendQueries), string(table.AttendKeys)}
		}
		for _, w := range words {
			leaf.SetString(w)
			f()
		}
	}
}

// Kernels are found by name: no two plans that are launched in another way have
// one name, whichever of their constants differs.
func TestKernelNames(t *testing.T) {
	seen := map[string]Kernel{}
	changed := map[string]bool{} // by template: a constant that changes launches
	for _, k := range gpuKernels(t) {
		check := func(what string, k Kernel) {
			if o, ok := seen[k.Name]; ok && !reflect.DeepEqual(launchOf(o), launchOf(k)) {
				t.Fatalf("%s%s is launched as\n%+v\nand as\n%+v", k.Name, what, launchOf(o), launchOf(k))
			}
			seen[k.Name] = k
		}
		check("", k)
		plan := reflect.New(reflect.TypeOf(k.Plan)).Elem()
		plan.Set(reflect.ValueOf(k.Plan))
		leaves(plan, func(path string, leaf reflect.Value) {
			changes(leaf, func() {
				defer func() { _ = recover() }() // no plan: it divides by nothing
				o := plan.Interface().(interface{ Kernel() Kernel }).Kernel()
				check(" with another "+path, o)
				if !reflect.DeepEqual(launchOf(o), launchOf(k)) {
					changed[string(k.Role)] = true
				}
			})
		})
	}
	for _, template := range []string{"gemm", "sgemm", "finish", "sum", "columns", "cast", "norm", "embed", "rotate", "loss", "adamw", "attend", "attend_rows", "delta"} {
		if !changed[template] {
			t.Errorf("no constant of %s changes its launches", template)
		}
	}
}

// Constants of the planner are not varied in one program: whatever they change of a
// row, of any family, is another name.
func TestKernelRows(t *testing.T) {
	for _, k := range gpuKernels(t) {
		k.Params = append([]table.Param(nil), k.Params...)
		name := k.named("").Name
		v := reflect.ValueOf(&k).Elem()
		for _, field := range []string{"Role", "File", "Threads", "SharedBytes", "BlocksPerSM", "Counts", "Grid", "Params"} {
			leaves(v.FieldByName(field), func(path string, leaf reflect.Value) {
				old := leaf.Interface()
				changes(leaf, func() {
					if !reflect.DeepEqual(leaf.Interface(), old) && k.named("").Name == name {
						t.Fatalf("%s: another %s%s has the same name", k.Name, field, path)
					}
				})
			})
		}
	}
}

// What a name says of its kernel's plan.
func TestKernelNamesKnown(t *testing.T) {
	p, err := NewBF16(spec.FFN{Kind: spec.Dense, Hidden: 768, FFN: 3072, Act: spec.GELU, Bias: true})
	if err != nil {
		t.Fatal(err)
	}
	f32, err := NewFloat32(p.Spec)
	if err != nil {
		t.Fatal(err)
	}
	a := newAttends(12, 12, 64)
	wide := newAttends(4, 2, 128)
	for want, k := range map[string]Kernel{
		"gemm_bf16_forward_1x768x3072_128x128x32_s3_bias_gelu": p.FC1.Factors[0].Forward.Kernel(),
		"gemm_bf16_forward_1x768x3072_16x64x32_s4_p3":          p.FC1.Factors[0].Few.Kernel(),
		"gemm_bf16_forward_1x3072x768_16x64x32_s4_p9":          p.FC2.Factors[0].Few.Kernel(),
		"finish_768x9_bias": Finish{p.FC2.Factors[0].Few}.Kernel(),
		"gemm_float32_backward_weight_1x768x3072_64x64x16_s1": f32.FC1.Factors[0].BackwardWeight.Kernel(),
		"attend_forward_12x12x64_64x64_s2":                    a.Forward,
		"attend_keys_4x2x128_64x16_s2":                        wide.Keys,
		"attend_delta_12x12x64":                               a.Delta,
		"attend_forward_cache_rows_12x12x64":                  a.Decode,
		"adamw":                                               AdamW.Kernel(),
		"sum_8":                                               SumRows.Kernel(),
	} {
		if !regexp.MustCompile("^" + want + "_r[0-9]+$").MatchString(k.Name) {
			t.Errorf("%s, want %s_r<row>", k.Name, want)
		}
	}
}
