// Package simd emits the CPU kernels with avo. Emitters take plans and decide
// nothing: there is one emitter an operation, parametrised by register file,
// format and tile.
package simd

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"slices"
	"unsafe"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/gen/simd/arch"
	"github.com/structuredffn/sffn/gen/simd/pass"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// asm is one assembly file in the making, for one instruction set.
type asm struct {
	*build.Context
	arch.File

	pool   operand.Mem // constants, each of Constant bytes
	consts map[uint32]int
	// tables holds vectors of lanes, one behind the other.
	tables operand.Mem
	lanes  []uint32
	names  []string // functions, in order
	needs  pass.Needs
	labels int
	args   reg.GPVirtual

	vecRow kernel.VecRow // of elementwise kernels
}

func newAsm(isa kernel.ISA) *asm {
	e := &asm{Context: build.NewContext(), consts: map[uint32]int{}, needs: pass.Needs{}}
	e.File = arch.New(isa, e.Context, e.label, e.vector)
	e.ConstraintExpr("amd64,!purego")
	e.pool = operand.NewDataAddr(operand.NewStaticSymbol("constants_"+string(isa)), 0)
	e.tables = operand.NewDataAddr(operand.NewStaticSymbol("lanes_"+string(isa)), 0)
	return e
}

// function begins a kernel func(a *Args), which may use the features given.
func (e *asm) function(name string, needs []kernel.Feature) {
	e.names = append(e.names, name)
	e.needs[name] = needs
	e.Function(name)
	e.Attributes(attr.NOSPLIT)
	// The printed stub has the true type; avo only needs a pointer's size.
	e.SignatureExpr("func(a *byte)")
	e.args = e.GP64()
	e.Load(e.Param("a"), e.args)
}

// done ends a kernel.
func (e *asm) done() {
	e.VZEROUPPER()
	e.RET()
}

// vecs allocates vector registers.
func (e *asm) vecs(n int) []reg.VecVirtual {
	v := make([]reg.VecVirtual, n)
	for i := range v {
		v[i] = e.Vec()
	}
	return v
}

// alternate emits n bodies, an instruction of each in turn, where there are registers
// for two: their chains of latencies run side by side. Bodies have the same
// instructions, and no labels.
func (e *asm) alternate(n int, body func(i int)) {
	f, _ := e.Result()
	fn := f.Functions()[len(f.Functions())-1]
	begin := len(fn.Nodes)
	for i := range n {
		body(i)
	}
	if e.Registers() < 32 || n == 1 {
		return
	}
	emitted := slices.Clone(fn.Nodes[begin:])
	each := len(emitted) / n
	for k := range emitted {
		from, first := emitted[k%n*each+k/n], emitted[k/n]
		if from.(*ir.Instruction).Opcode != first.(*ir.Instruction).Opcode {
			panic("simd: bodies that alternate differ")
		}
		fn.Nodes[begin+k] = from
	}
}

// label makes a name that is unique in the file's function.
func (e *asm) label(name string) string {
	e.labels++
	return fmt.Sprintf("%s%d", name, e.labels)
}

func (e *asm) jump(l string) operand.LabelRef { return operand.LabelRef(l) }

// field is a field of the kernel's arguments.
func (e *asm) field(off uintptr) operand.Mem { return operand.Mem{Base: e.args, Disp: int(off)} }

// load reads a field into a general register.
func (e *asm) load(off uintptr) reg.GPVirtual {
	r := e.GP64()
	e.MOVQ(e.field(off), r)
	return r
}

// constant is a memory operand that holds f in every lane.
func (e *asm) constant(f float32) operand.Mem { return e.bits(math.Float32bits(f)) }

// bits is a memory operand that holds u in every lane.
func (e *asm) bits(u uint32) operand.Mem {
	at, ok := e.consts[u]
	if !ok {
		at = len(e.consts) * e.Constant()
		e.consts[u] = at
	}
	return e.pool.Offset(at)
}

// vector is a memory operand of such lanes.
func (e *asm) vector(lanes []uint32) operand.Mem {
	at := 0
	for at < len(e.lanes) && !slices.Equal(e.lanes[at:at+len(lanes)], lanes) {
		at += len(lanes)
	}
	if at == len(e.lanes) {
		e.lanes = append(e.lanes, lanes...)
	}
	return e.tables.Offset(kernel.EntryBytes * at)
}

func mem(base reg.Register, disp int) operand.Mem { return operand.Mem{Base: base, Disp: disp} }

func indexed(base, index reg.Register, scale uint8, disp int) operand.Mem {
	return operand.Mem{Base: base, Index: index, Scale: scale, Disp: disp}
}

// finish compiles the file and returns its text.
func (e *asm) finish() ([]byte, error) {
	if len(e.consts) > 0 {
		e.StaticGlobal(e.pool.Symbol.Name)
		e.DataAttributes(attr.RODATA | attr.NOPTR)
		byOffset := make([]uint32, len(e.consts))
		for u, at := range e.consts {
			byOffset[at/e.Constant()] = u
		}
		for i, u := range byOffset {
			for at := 0; at < e.Constant(); at += kernel.EntryBytes {
				e.AddDatum(i*e.Constant()+at, operand.U32(u))
			}
		}
	}
	if len(e.lanes) > 0 {
		e.StaticGlobal(e.tables.Symbol.Name)
		e.DataAttributes(attr.RODATA | attr.NOPTR)
		for i, lane := range e.lanes {
			e.AddDatum(kernel.EntryBytes*i, operand.U32(lane))
		}
	}
	f, err := e.Result()
	if err != nil {
		return nil, err
	}
	if e.Constant() < e.Bytes() {
		if err := pass.Broadcast(f, e.pool.Symbol); err != nil {
			return nil, err
		}
	}
	if err := pass.Compile(f, e.needs); err != nil {
		return nil, err
	}
	src, err := printer.NewGoAsm(printer.Config{Name: "sffngen"}).Print(f)
	return padding.ReplaceAll(src, []byte(" ")), err
}

// padding is what the printer lines operands up with: a tenth of the text.
var padding = regexp.MustCompile(" {2,}")

// stubs declares the functions of the files.
func stubs(pkg, argsType string, files ...*asm) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// Code generated by sffngen. DO NOT EDIT.\n\n//go:build amd64 && !purego\n\npackage %s\n\nimport \"github.com/structuredffn/sffn/runtime/kernel\"\n", pkg)
	for _, e := range files {
		for _, name := range e.names {
			fmt.Fprintf(&b, "\n//go:noescape\nfunc %s(a *kernel.%s)\n", name, argsType)
		}
	}
	return b.Bytes()
}

// Offsets of the matrix kernels' arguments.
const (
	argA         = unsafe.Offsetof(kernel.Args{}.A)
	argB         = unsafe.Offsetof(kernel.Args{}.B)
	argC         = unsafe.Offsetof(kernel.Args{}.C)
	argBias      = unsafe.Offsetof(kernel.Args{}.Bias)
	argResidual  = unsafe.Offsetof(kernel.Args{}.Residual)
	argAux       = unsafe.Offsetof(kernel.Args{}.Aux)
	argSegs      = unsafe.Offsetof(kernel.Args{}.Segs)
	argNSegs     = unsafe.Offsetof(kernel.Args{}.NSegs)
	argLDA       = unsafe.Offsetof(kernel.Args{}.LDA)
	argKStep     = unsafe.Offsetof(kernel.Args{}.KStep)
	argLDC       = unsafe.Offsetof(kernel.Args{}.LDC)
	argLDAux     = unsafe.Offsetof(kernel.Args{}.LDAux)
	argUpAux     = unsafe.Offsetof(kernel.Args{}.UpAux)
	argNTiles    = unsafe.Offsetof(kernel.Args{}.NTiles)
	argPanelStep = unsafe.Offsetof(kernel.Args{}.PanelStep)
	argLDB       = unsafe.Offsetof(kernel.Args{}.LDB)
	argColB      = unsafe.Offsetof(kernel.Args{}.ColB)
	argColC      = unsafe.Offsetof(kernel.Args{}.ColC)
	argAhead     = unsafe.Offsetof(kernel.Args{}.Ahead)
	argAlpha     = unsafe.Offsetof(kernel.Args{}.Alpha)
	argFlags     = unsafe.Offsetof(kernel.Args{}.Flags)
	segOff       = unsafe.Offsetof(kernel.Segment{}.Off)
	segLen       = unsafe.Offsetof(kernel.Segment{}.Len)
	segSize      = unsafe.Sizeof(kernel.Segment{})
)
