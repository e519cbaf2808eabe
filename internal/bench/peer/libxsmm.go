//go:build peers

package peer

/*
#cgo LDFLAGS: -lxsmm -lopenblas -lpthread -lrt -ldl -lm
#include <libxsmm.h>

// A product as libxsmm is meant to be used: the caller packs panels and loops
// over tiles, libxsmm's kernels compute them. Its matrices are column-major:
// y[rows, out] is its C of out x rows, a packed panel its A of width x kc.
typedef struct {
	int rows, blocks, out, in;
	int width, kc, tile, group; // of a panel, of a block of k, of a tile in rows, panels at a time
	libxsmm_smmfunction kernel[2][2][2][2]; // first k block or not; panel, k block and tile whole or the last one
} product;

static int least(int a, int b) { return a < b ? a : b; }

static int last(int n, int step) { return n % step == 0 ? step : n % step; }

static int prepare(product* p) {
	const float one = 1, zero = 0;
	const int none = LIBXSMM_GEMM_PREFETCH_NONE, flags = LIBXSMM_GEMM_FLAG_NONE;
	const libxsmm_blasint ldb = p->blocks * p->in, ldc = p->blocks * p->out;
	for (int f = 0; f < 2; f++)
		for (int w = 0; w < 2; w++)
			for (int k = 0; k < 2; k++)
				for (int r = 0; r < 2; r++) {
					const libxsmm_blasint m = w ? last(p->out, p->width) : p->width;
					const libxsmm_blasint kc = k ? last(p->in, p->kc) : p->kc;
					const libxsmm_blasint n = r ? last(p->rows, p->tile) : p->tile;
					p->kernel[f][w][k][r] = libxsmm_smmdispatch(m, n, kc, &m, &ldb, &ldc, &one, f ? &zero : &one, &flags, &none);
					if (!p->kernel[f][w][k][r]) return 0;
				}
	return 1;
}

// Panels lie one after the other, for each block, block of k and panel.
static void pack(const product* p, float* dst, const float* w) {
	for (int b = 0; b < p->blocks; b++)
		for (int k0 = 0; k0 < p->in; k0 += p->kc)
			for (int o0 = 0; o0 < p->out; o0 += p->width)
				for (int k = k0; k < least(k0 + p->kc, p->in); k++)
					for (int o = o0; o < least(o0 + p->width, p->out); o++)
						*dst++ = w[((long)b * p->out + o) * p->in + k];
}

static void forward(const product* p, const float* panels, const float* x, float* y) {
	const long lx = (long)p->blocks * p->in, ly = (long)p->blocks * p->out;
	for (int b = 0; b < p->blocks; b++, x += p->in, y += p->out)
		for (int k0 = 0; k0 < p->in; k0 += p->kc) {
			const int kc = least(p->kc, p->in - k0);
			for (int g0 = 0; g0 < p->out; g0 += p->group * p->width) {
				const int g1 = least(g0 + p->group * p->width, p->out);
				for (int r0 = 0; r0 < p->rows; r0 += p->tile)
					for (int o0 = g0; o0 < g1; o0 += p->width)
						p->kernel[k0 == 0][o0 + p->width > p->out][k0 + p->kc > p->in][r0 + p->tile > p->rows](
							panels + (long)(o0 - g0) * kc, x + r0 * lx + k0, y + r0 * ly + o0);
				panels += (long)(g1 - g0) * kc;
			}
		}
}
*/
import "C"

import (
	"math"
	"time"
)

// libxsmm is LIBXSMM's just-in-time kernels of small products, in a loop over
// tiles of packed weights whose sizes are the fastest of those that are tried.
// It computes forward products on one thread.
type libxsmm struct{}

func (*libxsmm) Name() string    { return "libxsmm" }
func (*libxsmm) MaxThreads() int { return 1 }
func (*libxsmm) check() error    { return nil }
func (*libxsmm) Version() string {
	return C.LIBXSMM_VERSION + ", " + C.GoString(C.libxsmm_get_target_arch())
}
func (*libxsmm) Use(int) (restore func())            { return func() {} }
func (*libxsmm) BackwardData(*Product) func(i int)   { return nil }
func (*libxsmm) BackwardWeight(*Product) func(i int) { return nil }

// group is the size of the panels that stay in the second-level cache while
// all rows pass, in bytes.
const group = 512 << 10

func (*libxsmm) Forward(p *Product) func(i int) {
	type packed struct {
		c      C.product
		panels [][]float32
	}
	call := func(q *packed, i int) {
		C.forward(&q.c, (*C.float)(&q.panels[i%len(q.panels)][0]), (*C.float)(&p.X[0]), (*C.float)(&p.Y[0]))
	}
	pack := func(q *packed, w []float32) {
		panels := make([]float32, len(w))
		C.pack(&q.c, (*C.float)(&panels[0]), (*C.float)(&w[0]))
		q.panels = append(q.panels, panels)
	}
	var best *packed
	fastest := math.Inf(1)
	for _, width := range []int{16, 32, 48, 64, 128} {
		for _, kc := range []int{384, 768, 3072} {
			for _, tile := range []int{8, 14, 28, 64} {
				if width > 16 && width/2 >= p.Out || kc > 384 && kc/2 >= p.In || tile > 8 && tile/2 >= p.Rows {
					continue
				}
				q := &packed{c: C.product{rows: C.int(p.Rows), blocks: C.int(p.Blocks), out: C.int(p.Out), in: C.int(p.In)}}
				width, kc, tile := min(width, p.Out), min(kc, p.In), min(tile, p.Rows)
				q.c.width, q.c.kc, q.c.tile = C.int(width), C.int(kc), C.int(tile)
				q.c.group = C.int(max(1, group/(4*width*kc)))
				if C.prepare(&q.c) == 0 {
					continue
				}
				pack(q, p.W[0])
				call(q, 0)
				for range 3 {
					start, n := time.Now(), 0
					for n == 0 || time.Since(start) < 2*time.Millisecond {
						call(q, 0)
						n++
					}
					if s := time.Since(start).Seconds() / float64(n); s < fastest {
						best, fastest = q, s
					}
				}
			}
		}
	}
	if best == nil {
		return nil
	}
	for _, w := range p.W[1:] {
		pack(best, w)
	}
	return func(i int) { call(best, i) }
}
