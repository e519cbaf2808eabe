package table_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

const shipped = "../../../generated/gpt2s/"

func read(t testing.TB) (text []byte, rows []table.Kernel) {
	t.Helper()
	data, err := os.ReadFile(shipped + table.File)
	if err == nil {
		text, err = gz.Unpack(data)
	}
	if err == nil {
		rows, err = table.Decode(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text, rows
}

// Rows that are read and written again are the same bytes, and each is that of its
// kernel's text.
func TestRoundTrip(t *testing.T) {
	text, rows := read(t)
	again, err := table.Encode(rows)
	if err != nil || string(again) != string(text) {
		t.Fatalf("written again, the table is another: %v", err)
	}
	texts := map[string]table.Text{}
	roles := map[table.Role]bool{}
	for _, k := range rows {
		if texts[k.Name] == (table.Text{}) {
			data, err := os.ReadFile(shipped + "z_" + k.File + ".ptx.gz")
			if err != nil {
				t.Fatal(err)
			}
			src, err := gz.Unpack(data)
			if err != nil {
				t.Fatal(err)
			}
			for name, x := range table.Split(string(src)) {
				texts[name] = x
			}
		}
		if err := k.Check(texts[k.Name]); err != nil {
			t.Error(err)
		}
		roles[k.Role] = true
	}
	if len(rows) < 100 || len(roles) < 14 {
		t.Errorf("%d rows of %d roles", len(rows), len(roles))
	}
}

// Whatever leaf of a row is changed changes its hash.
func TestSum(t *testing.T) {
	_, rows := read(t)
	seen := map[table.Role]bool{}
	for _, k := range rows {
		if seen[k.Role] {
			continue
		}
		seen[k.Role] = true
		sum := k.Sum(table.Text{})
		var walk func(v reflect.Value, path string)
		walk = func(v reflect.Value, path string) {
			switch v.Kind() {
			case reflect.Pointer:
				if !v.IsNil() {
					walk(v.Elem(), path)
				}
			case reflect.Struct:
				for i := range v.NumField() {
					if name := v.Type().Field(i).Name; name != "Hash" {
						walk(v.Field(i), path+"."+name)
					}
				}
			case reflect.Array, reflect.Slice:
				for i := range v.Len() {
					walk(v.Index(i), path)
				}
			default:
				old := reflect.ValueOf(v.Interface())
				switch v.Kind() {
				case reflect.Int:
					v.SetInt(v.Int() + 1)
				case reflect.String:
					v.SetString(v.String() + "x")
				case reflect.Bool:
					v.SetBool(!v.Bool())
				default:
					t.Fatalf("%s: a leaf of %s", path, v.Kind())
				}
				if k.Sum(table.Text{}) == sum {
					t.Errorf("%s: another %s has the same hash", k.Name, path)
				}
				v.Set(old)
			}
		}
		walk(reflect.ValueOf(&k).Elem(), "")
		if k.Sum(table.Text{Body: "x"}) == sum || k.Sum(table.Text{Head: "x"}) == sum {
			t.Errorf("%s: another text has the same hash", k.Name)
		}
	}
}

// What a table must not say is an error that names the row.
func TestHostile(t *testing.T) {
	text, rows := read(t)
	for what, c := range map[string][2]string{
		"an unknown field":    {`"threads":256`, `"thread":256`},
		"too many threads":    {`"threads":256`, `"threads":4096`},
		"threads of no warp":  {`"threads":256`, `"threads":250`},
		"negative memory":     {`"shared":0`, `"shared":-1`},
		"memory beyond all":   {`"shared":0`, `"shared":9999999999`},
		"an unknown count":    {`"of":"tokens"`, `"of":"token"`},
		"a negative extent":   {`"of":"tokens","each":`, `"of":"tokens","each":-`},
		"an unknown role":     {`"role":"gemm"`, `"role":"other"`},
		"another role":        {`"role":"gemm"`, `"role":"norm"`},
		"another precision":   {`"role":"gemm"`, `"role":"sgemm"`},
		"a name of no entry":  {`"name":"gemm`, `"name":"../gemm`},
		"a run of nothing":    {`"run":768`, `"run":0`},
		"entries outside":     {`"pitch":768,"cols":{"len":768`, `"pitch":76,"cols":{"len":768`},
		"a hash of no digits": {`"hash":"`, `"hash":"-`},
		"a row twice":         {`]}` + "\n", "]}\n"},
	} {
		changed := strings.Replace(string(text), c[0], c[1], 1)
		if what == "a row twice" {
			first := strings.Split(string(text), "\n")[1]
			changed = strings.Replace(string(text), first, first+"\n"+first, 1)
		}
		if changed == string(text) {
			t.Errorf("%s: nothing to change", what)
			continue
		}
		_, err := table.Decode([]byte(changed))
		if named := err != nil && (strings.Contains(err.Error(), "kernel \"") || what == "an unknown field" && strings.Contains(err.Error(), `"thread"`)); !named {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, bad := range []string{"", "{}", "[]", `{"version":1,"kernels":null} x`, `{"version":2}`, string(text) + "{}", string(text[:len(text)/2])} {
		if _, err := table.Decode([]byte(bad)); err == nil {
			t.Errorf("%.40q is a table", bad)
		}
	}
	k := rows[0]
	k.Shape = table.Shape{}
	if _, err := table.Encode([]table.Kernel{k}); err == nil || !strings.Contains(err.Error(), k.Name) {
		t.Errorf("a row without a shape: %v", err)
	}
}

// Extents of any counts are numbers, not overflows.
func TestExtents(t *testing.T) {
	const most = 1<<63 - 1
	c := table.Counts{table.Tokens: most, table.Parts: most}
	for _, e := range []table.Extent{{N: most, Of: table.Tokens}, {N: 2, Of: table.Tokens, Times: table.Parts}, {N: most, Plus: 1 << 31}, {N: 1, Of: table.Tokens, Each: 2, Times: table.Parts}} {
		if n := e.In(c); n != most {
			t.Errorf("%+v is %d", e, n)
		}
	}
	if n := (table.Extent{N: 3, Of: table.Tokens, Each: 16, Plus: 1}).In(table.Counts{table.Tokens: 33}); n != 10 {
		t.Errorf("%d, want 10", n)
	}
}

// A table of any bytes is an error or rows that are as they were when written again.
func FuzzDecode(f *testing.F) {
	text, _ := read(f)
	for i, line := range strings.Split(string(text), "\n") {
		if i > 0 && i%11 == 0 && len(line) > 2 {
			f.Add([]byte(`{"version":1,"kernels":[` + strings.TrimSuffix(line, ",") + `]}`))
		}
	}
	f.Add([]byte(`{"version":1,"kernels":[{"name":"a","shape":{"product":{}},"role":"gemm"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := table.Decode(data)
		if err != nil {
			return
		}
		for _, k := range rows {
			k.Blocks(table.Counts{table.Tokens: 1000, table.Parts: 3})
			for _, p := range k.Params {
				p.Bytes(table.Counts{table.Tokens: 1000})
			}
			if k.Cut != (table.Cut{}) && (k.Cut.Parts(1000) < 1 || k.Cut.MostParts(1000) < 1) {
				t.Errorf("%+v", k.Cut)
			}
			if p := k.Shape.Product; p != nil && (p.C.At(p.Blocks-1, 0, p.C.Cols.Len-1) < 0 || k.Tile.Threads() < 32) {
				t.Errorf("%+v", k)
			}
			_ = k.Check(table.Text{Body: ".visible .entry x(\n)\n{"})
			_ = k.Family()
		}
		again, err := table.Encode(rows)
		if err != nil {
			t.Fatal(err)
		}
		back, err := table.Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if third, err := table.Encode(back); err != nil || string(third) != string(again) {
			t.Fatalf("%v: %s, want %s", err, third, again)
		}
	})
}
