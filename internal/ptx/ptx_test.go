package ptx

import (
	"strings"
	"testing"
)

// header opens a module; body is the inside of a kernel of three pointers.
const header = `.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 128 .b8 sh[];
.visible .entry k(.param .u64 p0, .param .u64 p1, .param .u32 p2)
.maxntid 64, 1, 1
{
.reg .pred %p<8>;
.reg .f32 %f<32>;
.reg .b32 %r<32>;
.reg .b64 %rd<16>;
`

func parse(t *testing.T, body string) *Kernel {
	t.Helper()
	m, err := Parse(header + body + "\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	return m.Kernels["k"]
}

// run runs a body on one block of 64 threads, with 256 bytes of input and of
// output and 1 KB of shared memory.
func run(t *testing.T, body string, seed uint64) (*Report, *Buffer) {
	t.Helper()
	k := parse(t, body)
	var mem Memory
	in := make([]byte, 256)
	for i := range in {
		in[i] = byte(i)
	}
	src, dst := mem.Input(in), mem.Output(256)
	r, err := k.Run(&mem, Launch{Grid: [3]int{1, 1, 1}, Block: 64, Shared: 1024, Seed: seed, Limit: 100000, Args: []uint64{src.Address, dst.Address, 7}})
	if err != nil {
		t.Fatal(err)
	}
	return r, dst
}

// addresses leaves the thread's number in %r0, four times that in %r1, the
// place of its word in shared memory in %r2 and in the buffers in %rd2, %rd3.
const addresses = `
mov.u32 %r0, %tid.x;
shl.b32 %r1, %r0, 2;
mov.u32 %r3, sh;
add.s32 %r2, %r1, %r3;
ld.param.u64 %rd0, [p0];
ld.param.u64 %rd1, [p1];
cvt.u64.u32 %rd4, %r1;
add.s64 %rd2, %rd0, %rd4;
add.s64 %rd3, %rd1, %rd4;
`

// Each body provokes one finding, at the line that has the comment HERE.
var wrong = []struct {
	name string
	kind Kind
	body string
}{
	{"read of another warp's write", Race, `st.shared.u32 [%r2], %r0;
		bar.sync 0;
		st.shared.u32 [%r2], %r0; // OR HERE
		xor.b32 %r4, %r2, 128;
		ld.shared.u32 %r5, [%r4]; // HERE
		ret;`},
	{"read of a lane's write in the same warp", Race, `st.shared.u32 [%r2], %r0;
		xor.b32 %r4, %r2, 4;
		ld.shared.u32 %r5, [%r4]; // HERE
		ret;`},
	{"write after another warp's read", Race, `st.shared.u32 [%r2], %r0;
		bar.sync 0;
		xor.b32 %r4, %r2, 128;
		ld.shared.u32 %r5, [%r2]; // OR HERE
		st.shared.u32 [%r4], %r0; // HERE
		ret;`},
	{"write after a warp's own read by another lane", Race, `st.shared.u32 [%r2], %r0;
		bar.sync 0;
		ld.shared.u32 %r5, [%r2];
		xor.b32 %r4, %r2, 4;
		st.shared.u32 [%r4], %r0; // HERE
		ret;`},
	{"two writes of one word", Race, `st.shared.u32 [%r2], %r0; // OR HERE
		xor.b32 %r4, %r2, 128;
		st.shared.u32 [%r4], %r0; // HERE
		ret;`},
	{"a warp barrier does not order two warps", Race, `st.shared.u32 [%r2], %r0;
		bar.sync 0;
		st.shared.u32 [%r2], %r0; // OR HERE
		bar.warp.sync -1;
		xor.b32 %r4, %r2, 128;
		ld.shared.u32 %r5, [%r4]; // HERE
		ret;`},
	{"a word written, its 16 bytes read by another warp", Race, `add.s32 %r5, %r2, %r1;
		add.s32 %r5, %r5, %r1;
		add.s32 %r5, %r5, %r1;
		mov.u32 %r8, 1;
		st.shared.v4.u32 [%r5], {%r8, %r8, %r8, %r8};
		bar.sync 0;
		xor.b32 %r6, %r5, 512;
		and.b32 %r4, %r0, 31;
		setp.ne.s32 %p0, %r4, 0;
		@%p0 bra L;
		st.shared.u32 [%r5+4], %r0; // OR HERE
		ld.shared.v4.u32 {%r9, %r10, %r11, %r12}, [%r6]; // HERE
		L: ret;`},
	{"a word read, its 16 bytes written by another warp", Race, `add.s32 %r5, %r2, %r1;
		add.s32 %r5, %r5, %r1;
		add.s32 %r5, %r5, %r1;
		mov.u32 %r8, 1;
		st.shared.v4.u32 [%r5], {%r8, %r8, %r8, %r8};
		bar.sync 0;
		xor.b32 %r6, %r5, 512;
		and.b32 %r4, %r0, 31;
		setp.ne.s32 %p0, %r4, 0;
		@%p0 bra L;
		ld.shared.u32 %r9, [%r5+12]; // OR HERE
		st.shared.v4.u32 [%r6], {%r8, %r8, %r8, %r8}; // HERE
		L: ret;`},
	{"16 bytes written, a word of them read by another warp", Race, `add.s32 %r5, %r2, %r1;
		add.s32 %r5, %r5, %r1;
		add.s32 %r5, %r5, %r1;
		mov.u32 %r8, 1;
		st.shared.v4.u32 [%r5], {%r8, %r8, %r8, %r8};
		bar.sync 0;
		xor.b32 %r6, %r5, 512;
		and.b32 %r4, %r0, 31;
		setp.ne.s32 %p0, %r4, 0;
		@%p0 bra L;
		st.shared.v4.u32 [%r5], {%r8, %r8, %r8, %r8}; // OR HERE
		ld.shared.u32 %r9, [%r6+8]; // HERE
		L: ret;`},
	{"16 bytes read, a word of them written by another warp", Race, `add.s32 %r5, %r2, %r1;
		add.s32 %r5, %r5, %r1;
		add.s32 %r5, %r5, %r1;
		mov.u32 %r8, 1;
		st.shared.v4.u32 [%r5], {%r8, %r8, %r8, %r8};
		bar.sync 0;
		xor.b32 %r6, %r5, 512;
		and.b32 %r4, %r0, 31;
		setp.ne.s32 %p0, %r4, 0;
		@%p0 bra L;
		ld.shared.v4.u32 {%r9, %r10, %r11, %r12}, [%r5]; // OR HERE
		st.shared.u32 [%r6+8], %r8; // HERE
		L: ret;`},
	{"write after another warp's read, and the thread's own", Race, `st.shared.u32 [%r2], %r0;
		bar.sync 0;
		xor.b32 %r4, %r2, 128;
		ld.shared.u32 %r5, [%r4]; // OR HERE
		ld.shared.u32 %r6, [%r2];
		st.shared.u32 [%r2], %r0; // HERE
		ret;`},
	{"a shuffle of half a warp", Divergent, `setp.lt.u32 %p0, %r0, 16;
		@%p0 bra L;
		shfl.sync.bfly.b32 %r4, %r0, 1, 31, -1; // HERE
		L: ret;`},
	{"a shuffle among fewer members", Divergent, `shfl.sync.bfly.b32 %r4, %r0, 1, 31, 0xffff; // HERE
		ret;`},
	{"a shuffle of an unset register", Uninitialised, `shfl.sync.bfly.b32 %r4, %r5, 1, 31, -1; // HERE
		ret;`},
	{"read before the wait", AsyncPending, `and.b32 %r6, %r0, 15;
		shl.b32 %r6, %r6, 4;
		mov.u32 %r9, 16;
		setp.ge.u32 %p0, %r0, 16;
		@%p0 bra L;
		add.s32 %r7, %r3, %r6;
		cvt.u64.u32 %rd5, %r6;
		add.s64 %rd6, %rd0, %rd5;
		cp.async.cg.shared.global [%r7], [%rd6], 16, %r9;
		cp.async.commit_group;
		ld.shared.v4.u32 {%r10, %r11, %r12, %r13}, [%r7]; // HERE
		cp.async.wait_group 0;
		L: ret;`},
	{"wait for too few groups", AsyncPending, `and.b32 %r6, %r0, 15;
		shl.b32 %r6, %r6, 4;
		mov.u32 %r9, 16;
		setp.ge.u32 %p0, %r0, 16;
		@%p0 bra L;
		add.s32 %r7, %r3, %r6;
		cvt.u64.u32 %rd5, %r6;
		add.s64 %rd6, %rd0, %rd5;
		cp.async.cg.shared.global [%r7], [%rd6], 16, %r9;
		cp.async.commit_group;
		cp.async.wait_group 1;
		ld.shared.v4.u32 {%r10, %r11, %r12, %r13}, [%r7]; // HERE
		L: ret;`},
	{"end with a copy on its way", AsyncPending, `setp.ne.s32 %p0, %r0, 0;
		@%p0 bra L;
		mov.u32 %r9, 16;
		cp.async.cg.shared.global [%r3], [%rd0], 16, %r9;
		L: ret; // HERE`},
	{"copy of eight bytes", OutOfBounds, `setp.ne.s32 %p0, %r0, 0;
		@%p0 bra L;
		mov.u32 %r9, 8;
		cp.async.cg.shared.global [%r3], [%rd0], 16, %r9; // HERE
		L: ret;`},
	{"register never written", Uninitialised, `add.s32 %r20, %r19, 1; // HERE
		ret;`},
	{"register written by other lanes", Uninitialised, `setp.lt.u32 %p0, %r0, 5;
		@%p0 mov.u32 %r19, 1;
		add.s32 %r20, %r19, 1; // HERE
		ret;`},
	{"guard never written", Uninitialised, `@%p3 mov.u32 %r19, 1; // HERE
		ret;`},
	{"shared memory never written", Uninitialised, `ld.shared.u32 %r5, [%r2]; // HERE
		ret;`},
	{"output of another thread", Uninitialised, `ld.global.u32 %r5, [%rd3]; // HERE
		ret;`},
	{"past the input", OutOfBounds, `ld.global.u32 %r5, [%rd2+4]; // HERE
		ret;`},
	{"before the input", OutOfBounds, `ld.global.u32 %r5, [%rd2+-4]; // HERE
		ret;`},
	{"write to an input", OutOfBounds, `st.global.u32 [%rd2], %r0; // HERE
		ret;`},
	{"past shared memory", OutOfBounds, `st.shared.u32 [%r2+772], %r0; // HERE
		ret;`},
	{"an offset as a shared address", OutOfBounds, `st.shared.u32 [%r1], %r0; // HERE
		ret;`},
	{"misaligned global", Misaligned, `ld.global.v2.u32 {%r5, %r6}, [%rd2]; // HERE
		ret;`},
	{"misaligned shared", Misaligned, `st.shared.u32 [%r2+2], %r0; // HERE
		ret;`},
	{"bank conflict", BankConflict, `shl.b32 %r4, %r0, 3;
		add.s32 %r4, %r4, %r3;
		st.shared.u32 [%r4], %r0; // HERE
		ret;`},
	{"barrier in one branch", Divergent, `setp.lt.u32 %p0, %r0, 5;
		@%p0 bra L;
		bar.sync 0; // HERE
		L: ret;`},
	{"guarded barrier", Divergent, `setp.lt.u32 %p0, %r0, 5;
		@%p0 bar.sync 0; // HERE
		ret;`},
	{"a barrier that one warp skips", Barrier, `setp.lt.u32 %p0, %r0, 32;
		@%p0 bra L;
		bar.sync 0; // HERE
		L: ret;`},
	{"two barriers", Barrier, `setp.lt.u32 %p0, %r0, 32;
		@%p0 bra L;
		bar.sync 0; // HERE
		ret;
		L: bar.sync 0; // OR HERE
		ret;`},
	{"output loaded as constant", NonCoherent, `st.global.u32 [%rd3], %r0;
		ld.global.nc.u32 %r4, [%rd3]; // HERE
		ret;`},
	{"output written twice", WrittenTwice, `st.global.u32 [%rd3], %r0;
		st.global.u32 [%rd3], %r0; // HERE
		ret;`},
	{"output written by all", WrittenTwice, `st.global.u32 [%rd1], %r0; // HERE
		ret;`},
	{"endless loop", Runaway, `L: add.s32 %r0, %r0, 1; // HERE
		bra L; // OR HERE
		ret;`},
}

func TestFindings(t *testing.T) {
	for _, c := range wrong {
		t.Run(c.name, func(t *testing.T) {
			lines := map[int]bool{}
			for i, l := range strings.Split(header+addresses+c.body, "\n") {
				if strings.Contains(l, "HERE") {
					lines[i+1] = true
				}
			}
			for seed := range uint64(5) {
				r, _ := run(t, addresses+c.body, seed)
				if len(r.Findings) != 1 || r.Findings[0].Kind != c.kind || !lines[r.Findings[0].Line] {
					t.Errorf("seed %d: findings %v, want one %s at %v", seed, r.Findings, c.kind, lines)
				}
			}
		})
	}
}

// A buffer that is updated in place: each word is touched by one thread, and
// written once.
func TestUpdate(t *testing.T) {
	for _, c := range []struct {
		body string
		want Kind
	}{
		{"ld.global.u32 %r4, [%rd3]; add.s32 %r4, %r4, 1; st.global.u32 [%rd3], %r4; ld.global.u32 %r4, [%rd3]; ret;", ""},
		{"ld.global.u32 %r4, [%rd3]; ret;", ""},
		{"ld.global.u32 %r4, [%rd1]; ret;", Race},
		{"ld.global.nc.u32 %r4, [%rd3]; ld.global.u32 %r4, [%rd3]; ret;", ""},
		{"ld.global.nc.u32 %r4, [%rd3]; st.global.u32 [%rd3], %r4; ret;", NonCoherent},
		{"st.global.u32 [%rd3], %r0; ld.global.nc.u32 %r4, [%rd3]; ret;", NonCoherent},
		{"st.global.u32 [%rd3], %r0; st.global.u32 [%rd3], %r0; ret;", WrittenTwice},
		{"st.global.u32 [%rd3], %r0; setp.ne.s32 %p0, %r0, 9; @%p0 bra L; ld.global.u32 %r4, [%rd3+4]; L: ret;", Race},
	} {
		k := parse(t, addresses+c.body)
		var mem Memory
		b := mem.Update(make([]byte, 256))
		r, err := k.Run(&mem, Launch{Grid: [3]int{1, 1, 1}, Block: 64, Shared: 1024, Args: []uint64{b.Address, b.Address, 0}})
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case c.want == "" && len(r.Findings) > 0:
			t.Errorf("%s: %v", c.body, r.Findings)
		case c.want != "" && (len(r.Findings) == 0 || r.Findings[0].Kind != c.want):
			t.Errorf("%s: %v, want %s", c.body, r.Findings, c.want)
		}
	}
}
