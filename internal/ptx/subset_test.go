package ptx

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
)

// The layout of mma.m16n8k16 for bf16 as the PTX ISA publishes it in section
// 9.7.14, "Matrix Fragments for mma.m16n8k16": groupID = lane >> 2,
// threadID_in_group = lane & 3; entries a0..a7, b0..b3, c0..c3, two to a register
// of A and B. It is written out here entry by entry, from the text.
func TestFragmentLayout(t *testing.T) {
	for lane := range 32 {
		group, in := lane>>2, lane&3
		for i := range 8 { // a_i
			row, col := group, in*2+(i&1)
			if !(i < 2 || i >= 4 && i < 6) {
				row += 8
			}
			if i >= 4 {
				col += 8
			}
			r, c := fragmentA(lane, i/2)
			if r != row || c+i%2 != col {
				t.Errorf("lane %d: a%d is (%d,%d), published (%d,%d)", lane, i, r, c+i%2, row, col)
			}
		}
		for i := range 4 { // b_i
			row := in*2 + (i & 1)
			if i >= 2 {
				row += 8
			}
			k, c := fragmentB(lane, i/2)
			if k+i%2 != row || c != group {
				t.Errorf("lane %d: b%d is (%d,%d), published (%d,%d)", lane, i, k+i%2, c, row, group)
			}
		}
		for i := range 4 { // c_i
			row, col := group, in*2+(i&1)
			if i >= 2 {
				row += 8
			}
			if r, c := fragmentC(lane, i); r != row || c != col {
				t.Errorf("lane %d: c%d is (%d,%d), published (%d,%d)", lane, i, r, c, row, col)
			}
		}
	}
	// Spot checks as the figures of the same section print them.
	for _, c := range []struct{ lane, reg, row, col int }{{0, 0, 0, 0}, {0, 1, 8, 0}, {0, 2, 0, 8}, {0, 3, 8, 8}, {31, 0, 7, 6}, {31, 3, 15, 14}, {5, 0, 1, 2}} {
		if r, col := fragmentA(c.lane, c.reg); r != c.row || col != c.col {
			t.Errorf("lane %d register %d of A: (%d,%d), want (%d,%d)", c.lane, c.reg, r, col, c.row, c.col)
		}
	}
}

// One warp multiplies two matrices through ldmatrix and mma; the other leaves.
func TestMultiply(t *testing.T) {
	k := parse(t, addresses+`
	shl.b32 %r4, %r0, 4;
	setp.ge.u32 %p0, %r0, 32;
	@%p0 bra L;
	cvt.u64.u32 %rd5, %r4;
	add.s64 %rd6, %rd0, %rd5;
	add.s32 %r5, %r3, %r4;
	mov.u32 %r6, 16;
	cp.async.cg.shared.global [%r5], [%rd6], 16, %r6;
	cp.async.cg.shared.global [%r5+512], [%rd6+512], 16, %r6;
	cp.async.commit_group;
	cp.async.wait_group 0;
	bar.warp.sync -1;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r8, %r9, %r10, %r11}, [%r5];
	ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r12, %r13, %r14, %r15}, [%r5+512];
	mov.f32 %f0, 0f00000000;
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r8, %r9, %r10, %r11}, {%r12, %r13}, {%f0, %f0, %f0, %f0};
	add.s64 %rd7, %rd1, %rd5;
	st.global.v4.f32 [%rd7], {%f1, %f2, %f3, %f4};
	L: ret;`)
	a := func(i, j int) float32 { return float32(i - 2*j) }
	b := func(k, n int) float32 { return float32(3*k + n) }
	in := make([]byte, 1024)
	put := func(matrix, r, c int, v float32) {
		binary.LittleEndian.PutUint16(in[matrix*128+r*16+c*2:], uint16(math.Float32bits(v)>>16))
	}
	for r := range 8 {
		for c := range 8 {
			for q := range 4 { // the order of registers of A
				put(q, r, c, a(r+q%2*8, c+q/2*8))
			}
			put(4, r, c, b(r, c)) // stored by k: ldmatrix transposes
			put(5, r, c, b(r+8, c))
		}
	}
	for seed := range uint64(3) {
		var mem Memory
		src, dst := mem.Input(in), mem.Output(512)
		rep, err := k.Run(&mem, Launch{Grid: [3]int{1, 1, 1}, Block: 64, Shared: 1024, Seed: seed, Args: []uint64{src.Address, dst.Address, 0}})
		if err != nil || len(rep.Findings) > 0 || dst.Unwritten() > 0 || rep.MMA != 1 {
			t.Fatal(err, rep.Findings, dst.Unwritten(), rep.MMA)
		}
		got := dst.Floats()
		for i := range 16 {
			for n := range 8 {
				want := float32(0)
				for k := range 16 {
					want += a(i, k) * b(k, n)
				}
				if g := got[(i%8*4+n/2)*4+i/8*2+n%2]; g != want {
					t.Errorf("(%d,%d): %v, want %v", i, n, g, want)
				}
			}
		}
	}
}

// Each text leaves its result in %r8.
func TestArithmetic(t *testing.T) {
	f := func(v float32) uint32 { return math.Float32bits(v) }
	neg := func(v int32) uint32 { return uint32(v) }
	for _, c := range []struct {
		text string
		want uint32
	}{
		{"mov.u32 %r9, -5; sub.s32 %r8, %r9, 3;", neg(-8)},
		{"mov.u32 %r9, -5; shr.s32 %r8, %r9, 1;", neg(-3)},
		{"mov.u32 %r9, -5; shr.s32 %r8, %r9, 40;", neg(-1)},
		{"mov.u32 %r9, -5; shr.u32 %r8, %r9, 28;", 15},
		{"mov.u32 %r9, 1; shl.b32 %r8, %r9, 32;", 0},
		{"mov.u32 %r9, -5; div.u32 %r8, %r9, 16;", 0x0fffffff},
		{"mov.u32 %r9, -5; rem.u32 %r8, %r9, 16;", 11},
		{"mov.u32 %r9, 0; rem.u32 %r8, %r9, %r9;", neg(-1)},
		{"mov.u32 %r9, -5; neg.s32 %r8, %r9;", 5},
		{"mov.u32 %r9, 0x80000000; mul.hi.u32 %r8, %r9, 6;", 3},
		{"mov.u32 %r9, -2; mul.hi.s32 %r8, %r9, 5;", neg(-1)},
		{"mov.u32 %r9, 7; mad.lo.s32 %r8, %r9, -3, 1;", neg(-20)},
		{"mov.u32 %r9, -2; min.s32 %r8, %r9, 5;", neg(-2)},
		{"mov.u32 %r9, -2; min.u32 %r8, %r9, 5;", 5},
		{"mov.u32 %r9, -2; max.s32 %r8, %r9, 5;", 5},
		{"mov.u32 %r9, -2; max.u32 %r8, %r9, 5;", neg(-2)},
		{"mov.u32 %r9, 0xff; bfi.b32 %r8, %r9, 0x12345678, 8, 4;", 0x12345f78},
		{"mov.u32 %r9, 12; xor.b32 %r8, %r9, 10;", 6},
		{"mov.u32 %r9, 12; not.b32 %r8, %r9;", neg(-13)},
		{"mov.u32 %r9, -2; mul.wide.s32 %rd9, %r9, 3; shr.s64 %rd9, %rd9, 1; cvt.u32.u64 %r8, %rd9;", neg(-3)},
		{"mov.u32 %r9, -2; mul.wide.u32 %rd9, %r9, 3; shr.u64 %rd9, %rd9, 32; cvt.u32.u64 %r8, %rd9;", 2},
		{"mov.u32 %r9, -2; cvt.s64.s32 %rd9, %r9; shr.u64 %rd9, %rd9, 60; cvt.u32.u64 %r8, %rd9;", 15},
		{"mov.u32 %r9, -2; cvt.u64.u32 %rd9, %r9; shr.u64 %rd9, %rd9, 60; cvt.u32.u64 %r8, %rd9;", 0},
		{"mov.u32 %r9, -2; cvt.u16.u32 %rs1, %r9; mul.wide.u16 %r8, %rs1, 2;", 0x1fffc},
		{"mov.u32 %r9, 3; cvt.u16.u32 %rs1, %r9; sub.s16 %rs2, %rs1, 5; cvt.u32.u16 %r8, %rs2;", 0xfffe},
		{"setp.lt.u32 %p1, %r0, 1000; selp.b32 %r8, 4, 5, %p1;", 4},
		{"setp.ne.s32 %p1, %r0, %r0; setp.ge.u32 %p2, %r0, 0; or.pred %p3, %p1, %p2; and.pred %p4, %p3, %p1; selp.b32 %r8, 4, 5, %p4;", 5},
		{"mov.pred %p1, -1; not.pred %p2, %p1; selp.b32 %r8, 4, 5, %p2;", 5},
		{"mov.f32 %f1, 0f7fc00000; setp.ne.f32 %p1, %f1, %f1; selp.b32 %r8, 4, 5, %p1;", 5},
		{"mov.f32 %f1, 0f3fc00000; fma.rn.f32 %f2, %f1, %f1, %f1; mov.b32 %r8, %f2;", f(3.75)},
		{"mov.f32 %f1, 0f3fc00000; sub.f32 %f2, %f1, 0f3f800000; mov.b32 %r8, %f2;", f(0.5)},
		{"mov.f32 %f1, 0f3f800001; cvt.rn.bf16x2.f32 %r8, %f1, 0f3f818000;", 0x3f80_3f82},
		{"mov.f32 %f1, 0f7f800001; cvt.rn.bf16x2.f32 %r8, %f1, 0f3f808000;", 0x7fff_3f80},
		{"mov.f32 %f1, 0f7fc00000; max.f32 %f2, %f1, 0f3fc00000; mov.b32 %r8, %f2;", f(1.5)},
		{"mov.f32 %f1, 0fbfc00000; min.f32 %f2, %f1, 0f7fc00000; mov.b32 %r8, %f2;", f(-1.5)},
		{"mov.f32 %f1, 0f3fc00000; div.rn.f32 %f2, %f1, 0f40000000; mov.b32 %r8, %f2;", f(0.75)},
		{"mov.f32 %f1, 0f40000000; rcp.rn.f32 %f2, %f1; mov.b32 %r8, %f2;", f(0.5)},
		{"mov.f32 %f1, 0f40100000; sqrt.rn.f32 %f2, %f1; mov.b32 %r8, %f2;", f(1.5)},
		{"mov.u32 %r9, 7; cvt.rn.f32.u32 %f2, %r9; mov.b32 %r8, %f2;", f(7)},
		{"mov.f32 %f1, 0f40400000; ex2.approx.f32 %f2, %f1; mov.b32 %r8, %f2;", f(8)},
		{"mov.f32 %f1, 0fff800000; ex2.approx.f32 %f2, %f1; mov.b32 %r8, %f2;", f(0)},
		{"mov.f32 %f1, 0f41000000; lg2.approx.f32 %f2, %f1; mov.b32 %r8, %f2;", f(3)},
		{"mov.f32 %f1, 0f7fc00000; setp.geu.f32 %p1, %f1, %f1; selp.b32 %r8, 4, 5, %p1;", 4},
		{"mov.f32 %f1, 0f3fc00000; setp.ltu.f32 %p1, %f1, %f1; selp.b32 %r8, 4, 5, %p1;", 5},
		{"mov.u32 %r9, 3; setp.eq.b32 %p1, %r9, 3; selp.b32 %r8, 4, 5, %p1;", 4},
		{"shfl.sync.bfly.b32 %r9, %r0, 5, 31, -1; xor.b32 %r8, %r9, %r0;", 5},
		{"mov.f32 %f1, 0f41200000; tanh.approx.f32 %f2, %f1; mov.b32 %r8, %f2;", f(1)},
	} {
		r, out := run(t, ".reg .b16 %rs<4>;"+addresses+c.text+"st.global.u32 [%rd3], %r8; ret;", 1)
		if len(r.Findings) > 0 {
			t.Errorf("%s: %v", c.text, r.Findings)
			continue
		}
		if got := binary.LittleEndian.Uint32(out.Bytes()); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.text, got, c.want)
		}
	}
	// The approximate tanh is as far off as the hardware's may be, not exact.
	if x := float32(0.3); tanhApprox(x) == float32(math.Tanh(float64(x))) || math.Abs(float64(tanhApprox(x))-math.Tanh(float64(x))) > math.Pow(2, -11)*0.3 {
		t.Error("tanh.approx of 0.3")
	}
	// So are powers and logarithms.
	for _, c := range []struct {
		name string
		f    func(float64) float64
	}{{"ex2", math.Exp2}, {"lg2", math.Log2}} {
		worst := 0.0
		for i := range 1000 {
			x := 0.3 + float64(i)/17
			worst = max(worst, math.Abs(float64(approx22(c.f(x)))-c.f(x))/math.Abs(c.f(x)))
		}
		if worst < math.Pow(2, -24) || worst > math.Pow(2, -22) {
			t.Errorf("%s is off by %g", c.name, worst)
		}
	}
}

// Lanes may be exchanged by a number, a register or the thread's own number.
func TestShuffles(t *testing.T) {
	for other, want := range map[string]func(lane uint32) uint32{
		"3":      func(lane uint32) uint32 { return lane ^ 3 },
		"%r9":    func(uint32) uint32 { return 0 },
		"%tid.x": func(uint32) uint32 { return 0 },
	} {
		k := parse(t, addresses+"and.b32 %r9, %r0, 31; shfl.sync.bfly.b32 %r10, %r0, "+other+", 31, -1; st.global.u32 [%rd3], %r10; ret;")
		var mem Memory
		dst := mem.Output(128)
		r, err := k.Run(&mem, Launch{Grid: [3]int{1, 1, 1}, Block: 32, Args: []uint64{dst.Address, dst.Address, 0}})
		if err != nil || len(r.Findings) > 0 {
			t.Fatal(err, r.Findings)
		}
		for l := range uint32(32) {
			if got := binary.LittleEndian.Uint32(dst.Bytes()[4*l:]); got != want(l) {
				t.Errorf("by %s, lane %d: %d, want %d", other, l, got, want(l))
			}
		}
	}
}

// Words of shared memory and 16 bytes of it may take turns, with barriers between.
func TestPieces(t *testing.T) {
	r, out := run(t, addresses+`add.s32 %r5, %r2, %r1; add.s32 %r5, %r5, %r1; add.s32 %r5, %r5, %r1; xor.b32 %r6, %r5, 512; xor.b32 %r7, %r2, 128; mov.u32 %r8, 7;
		st.shared.u32 [%r2], %r0; bar.sync 0; st.shared.v4.u32 [%r6], {%r8, %r0, %r8, %r8}; bar.sync 0; ld.shared.u32 %r9, [%r7]; bar.sync 0;
		st.shared.u32 [%r7], %r0; bar.sync 0; ld.shared.v4.u32 {%r10, %r11, %r12, %r13}, [%r5]; st.global.u32 [%rd3], %r11; ret;`, 1)
	if len(r.Findings) > 0 {
		t.Fatal(r.Findings)
	}
	for l := range uint32(64) {
		want := l ^ 32 // of the piece
		if l < 16 {
			want = (4*l + 1) ^ 32 // of the words over it
		}
		if got := binary.LittleEndian.Uint32(out.Bytes()[4*l:]); got != want {
			t.Errorf("thread %d: %d, want %d", l, got, want)
		}
	}
}

// Errors name the line and what would be right.
func TestParseErrors(t *testing.T) {
	at := strings.Count(header, "\n") + 1
	for _, c := range []struct{ body, want string }{
		{"frob.u32 %r1, %r2; ret;", `instruction "frob.u32" is not among those that are run`},
		{"div.s32 %r1, %r2, 3; ret;", `instruction "div.s32"`},
		{"add.s32 %r1, %r2; ret;", `";", want ","`},
		{"add.s32 %rd1, %r2, 3; ret;", `add.s32 writes a 32-bit register, got "%rd1"`},
		{"add.s32 %r1, %rd2, 3; ret;", `add.s32 reads a 32-bit register, got "%rd2"`},
		{"add.s32 %r1, %r99, 3; ret;", `add.s32 reads a 32-bit register, got "%r99"`},
		{"add.s32 %r1, %r2, 99999999999; ret;", `99999999999 does not fit`},
		{"add.f32 %f1, %f2, 0f12; ret;", `"0f12", want 0f and eight hexadecimal digits`},
		{"@%r1 bra L; ret;", `guard "%r1" is no predicate register`},
		{"bra L; ret;", `no label L`},
		{"L: L: ret;", `a second label L`},
		{"ld.param.u64 %rd1, [p2]; ret;", `no parameter "p2" of 8 bytes`},
		{"ld.global.v4.u32 {%r1, %r2, %r3}, [%rd1]; ret;", `"}", want ","`},
		{"ld.global.u32 %r1, [%rd1+x]; ret;", `offset "x" of an address`},
		{"cp.async.cg.shared.global [%r1], [%rd1], 8, %r2; ret;", `copy of "8" bytes, want 16`},
		{"ld.u32 %r1, [%rd1]; ret;", `instruction "ld.u32"`},
		{".reg .f64 %d<3>; ret;", `registers of type ".f64"`},
		{".reg .b32 %q<999999>; ret;", `"999999", want a number up to 16384`},
		{".reg .b32 %r<3>; ret;", `register %r0 is declared twice`},
		{"add.s32 %r1, %r2, 3;", `k does not end with ret`},
		{"^", `character '^' is not PTX`},
		{"\"", `string without an end`},
	} {
		_, err := Parse(header + c.body + "\n}\n")
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Msg, c.want) || e.Line < at || e.Line > at+1 {
			t.Errorf("%s: %v, want line %d: %s", c.body, err, at, c.want)
		}
	}
	for _, c := range []struct{ text, want string }{
		{".address_size 32", `line 1: address size "32", want 64`},
		{"\n.func f", `line 2: ".func" at the top of a module`},
		{".visible .entry k(.param .f64 p)", `line 1: parameter of type ".f64"`},
		{".visible .entry k() .maxntid 4000, 1, 1 {", `line 1: "4000", want a number up to 1024`},
		{".visible .entry k() {\nret;\n", `line 2: k ends without }`},
	} {
		if _, err := Parse(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
}

// A launch that a driver would refuse is an error, not a finding.
func TestLaunchErrors(t *testing.T) {
	k := parse(t, "ret;")
	ok := Launch{Grid: [3]int{1, 1, 1}, Block: 64, Args: []uint64{0, 0, 0}}
	if _, err := k.Run(&Memory{}, ok); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Launch){
		"grid [0 1 1]":                  func(l *Launch) { l.Grid[0] = 0 },
		"128 threads":                   func(l *Launch) { l.Block = 128 },
		"33 threads":                    func(l *Launch) { l.Block = 33 },
		"2 arguments, want 3":           func(l *Launch) { l.Args = l.Args[:2] },
		"300000 bytes of shared memory": func(l *Launch) { l.Shared = 300000 },
	} {
		l := ok
		change(&l)
		if _, err := k.Run(&Memory{}, l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Whatever the text, the parser gives a module or an error with a line of it.
func FuzzParse(f *testing.F) {
	for _, c := range wrong {
		f.Add(header + addresses + c.body + "\n}\n")
	}
	f.Add(header + "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r1,%r2}, {%f1,%f2,%f3,%f4}; ret; }")
	f.Fuzz(func(t *testing.T, src string) {
		m, err := Parse(src)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Line > strings.Count(src, "\n")+1 {
				t.Errorf("%v: want a line of the text", err)
			}
			return
		}
		for _, k := range m.Kernels {
			if k.r32+k.r64+k.preds > 4096 {
				continue
			}
			var mem Memory
			b := mem.Input(make([]byte, 64))
			args := make([]uint64, len(k.Params))
			for i := range args {
				args[i] = b.Address
			}
			if _, err := k.Run(&mem, Launch{Grid: [3]int{1, 1, 1}, Block: 32, Shared: 256, Limit: 1000, Args: args}); err != nil && k.Threads >= 32 {
				t.Error(err)
			}
		}
	})
}
