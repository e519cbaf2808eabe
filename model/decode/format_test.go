package decode_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model/decode"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// In every format the logits of a full pass, through the cache and token by token are the
// same bits, on any number of threads, and of a model that was loaded to run; they are
// near those of float32, and others.
func TestFormats(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, s := range modeltest.Forms {
			ids := modeltest.Tokens(rand.New(rand.NewPCG(8, 8)), 150, s.Vocab) // more than one block of keys
			var exact []float32
			for _, format := range kernel.Formats() {
				t.Run(fmt.Sprintf("%s/%s/%s", isa, s.Name, format), func(t *testing.T) {
					var first []float32
					for _, threads := range []int{1, 3} {
						of := format
						if format.Quantized() {
							of = kernel.F32 // models of integers do not train
						}
						held := modeltest.BuildIn(t, s, rt.Options{ISA: isa, Format: of}, threads)
						held.SetGuides(make([]rt.Guide, len(held.Params.Guides())))
						opt := held.Options()
						opt.Format = format
						loaded, err := decode.Load(s, held.Params.Read, opt)
						if err != nil {
							t.Fatal(err)
						}
						defer loaded.Close()
						models := []*decode.Model{decode.Of(held), loaded}
						if of != format {
							models = models[1:]
						}
						for _, m := range models {
							for _, cached := range []bool{false, true} {
								var got []float32
								err := m.Logits(ids, cached, func(rows []float32) error {
									got = append(got, rows...)
									return nil
								})
								if err != nil {
									t.Fatal(err)
								}
								if first == nil {
									first = got
								}
								if !slices.Equal(got, first) {
									t.Errorf("%d threads, cached %v, loaded %v: other bits", threads, cached, m == loaded)
								}
							}
						}
						dec, err := loaded.NewDecoder(1, len(ids))
						if err != nil {
							t.Fatal(err)
						}
						defer dec.Close()
						for i := range ids {
							row, err := dec.Feed([]int{0}, [][]int32{ids[i : i+1]})
							if err != nil || !slices.Equal(row, first[i*s.Vocab:(i+1)*s.Vocab]) {
								t.Fatalf("the decoder gives other logits after token %d; %v", i, err)
							}
						}
					}
					if format == kernel.F32 {
						exact = first
						return
					}
					var off, size float64
					for i, v := range first {
						off += math.Pow(float64(v-exact[i]), 2)
						size += math.Pow(float64(exact[i]), 2)
					}
					if off = math.Sqrt(off / size); off > 0.03 || off == 0 {
						t.Errorf("logits are off by %v of their size", off)
					}
				})
			}
		}
	}
}

// Keys and values in fewer bits are the same bits through the cache and in a full pass, and
// others, but near those of float32.
func TestRoundedKeysAndValues(t *testing.T) {
	for _, s := range modeltest.Forms {
		ids := modeltest.Tokens(rand.New(rand.NewPCG(8, 8)), 150, s.Vocab)
		held := modeltest.Build(t, s, "", 2)
		var exact []float32
		for _, kv := range kernel.KVFormats() {
			opt := held.Options()
			opt.KV = kv
			m, err := decode.Load(s, held.Params.Read, opt)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			var passes [2][]float32
			for i := range passes {
				err := m.Logits(ids, i > 0, func(rows []float32) error {
					passes[i] = append(passes[i], rows...)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(passes[0], passes[1]) {
				t.Errorf("%s, keys and values in %s: other logits through the cache", s.Name, kv)
			}
			if kv == kernel.F32 {
				exact = passes[0]
				continue
			}
			var off, size float64
			for i, v := range passes[0] {
				off += math.Pow(float64(v-exact[i]), 2)
				size += math.Pow(float64(exact[i]), 2)
			}
			// bfloat16 rounds by 0.001 of the size of normal numbers, integers, with the largest
			// of 64 at 2.5 times that, by 0.006.
			if off = math.Sqrt(off / size); off > map[kernel.FormatName]float64{kernel.BF16: 0.01, kernel.Int8: 0.02}[kv] || off == 0 {
				t.Errorf("%s, keys and values in %s: logits are off by %v of their size", s.Name, kv, off)
			}
		}
	}
}
