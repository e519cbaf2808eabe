package cuda

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// The rows that lie beside the PTX are those of the plan, no more and no fewer, and
// those of the texts there.
func TestRowsAreThePlan(t *testing.T) {
	for dir, planned := range folders {
		ks, err := planned()
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, Rows))
		if err != nil {
			t.Fatal(err)
		}
		text, err := gz.Unpack(data)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := table.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string]table.Text{}
		for _, file := range gpu.Files(ks) {
			packed, err := os.ReadFile(filepath.Join(dir, ptxName(file)))
			if err != nil {
				t.Fatal(err)
			}
			src, err := gz.Unpack(packed)
			if err != nil {
				t.Fatal(err)
			}
			for name, x := range table.Split(string(src)) {
				texts[name] = x
			}
		}
		want := map[string]table.Kernel{}
		for _, k := range ks {
			want[k.Name] = k.Kernel
		}
		if len(rows) != len(want) {
			t.Errorf("%s: %d rows of %d kernels; go test ./gen/cuda -update writes them", dir, len(rows), len(want))
		}
		for _, k := range rows {
			if err := k.Check(texts[k.Name]); err != nil {
				t.Errorf("%s: %v", dir, err)
			}
			k.Hash = ""
			if !reflect.DeepEqual(k, want[k.Name]) {
				t.Errorf("%s: the row\n%+v, the plan says\n%+v; go test ./gen/cuda -update writes it", dir, k, want[k.Name])
			}
		}
	}
}
