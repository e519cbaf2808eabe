package ptx

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Module is parsed PTX.
type Module struct {
	Version, Target string
	Kernels         map[string]*Kernel
}

// Kernel is one entry point.
type Kernel struct {
	Name string
	// Threads is the largest block that the kernel was compiled for.
	Threads int
	// Params are the sizes of the parameters in bytes.
	Params []int

	code []instr
	// r32, r64 and preds count the registers of each kind, those among them
	// that hold constants included. A warp's set has them in this order.
	r32, r64, preds int
	const32         map[constant]int
	const64         map[uint64]int
	constPred       map[bool]int
	constants       []int // their places in a warp's set
	names           map[string]register
}

// Instructions counts the instructions by their full names.
func (k *Kernel) Instructions() map[string]int {
	n := map[string]int{}
	for _, in := range k.code {
		n[in.name]++
	}
	return n
}

type class uint8

const (
	class32 class = iota
	class16       // kept in the file of the 32-bit registers, upper half zero
	class64
	classPred
)

// register is a register's place in the file of its class.
type register struct {
	class class
	index int
}

// constant fills a 32-bit register before the kernel starts: a number or a
// special register.
type constant struct {
	value   uint32
	special string
}

// instr is a decoded instruction. Operands are indices of registers; constants
// have registers of their own.
type instr struct {
	op   *opcode
	name string
	line int
	// pred guards the instruction where >= 0; negated where not.
	pred int
	not  bool
	d    []int
	s    []int
	// classes are those of s.
	classes []class
	// r32 and r64 are the same registers as s by place, where the file of their class
	// has them, and any other ones elsewhere.
	r32, r64 [4]int
	// reads are the places in a warp's set of what is read and is no constant; writes
	// is added to those of d.
	reads  []int
	writes int
	guard  int // and of pred
	// steady shuffles read the same numbers in all lanes, but for what they move.
	steady bool
	// shared and global are added to the addresses; count is a number in the
	// text, or that of a parameter.
	shared, global int64
	count          int
	target         int
	label          string
}

type parser struct {
	ts     []token
	shared map[string]bool
	k      *Kernel
	labels map[string]int
	params map[string]int
}

// Parse reads the PTX of one module. Errors are of type *[Error].
func Parse(src string) (m *Module, err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *Error:
			m, err = nil, v
		default:
			panic(v)
		}
	}()
	ts := lex(src)
	last := 1
	if len(ts) > 0 {
		last = ts[len(ts)-1].line
	}
	p := &parser{ts: append(ts, token{"", last}), shared: map[string]bool{}}
	m = &Module{Kernels: map[string]*Kernel{}}
	for p.peek() != "" {
		t := p.next()
		switch t.text {
		case ".version":
			m.Version = p.next().text
		case ".target":
			m.Target = p.next().text
		case ".address_size":
			if n := p.next(); n.text != "64" {
				fail(n.line, "address size %q, want 64", n.text)
			}
		case ".extern":
			p.externShared()
		case ".visible":
			k := p.entry()
			if m.Kernels[k.Name] != nil {
				fail(t.line, "a second kernel %s", k.Name)
			}
			m.Kernels[k.Name] = k
		default:
			fail(t.line, "%q at the top of a module: want a directive or .visible .entry", t.text)
		}
	}
	return m, nil
}

func (p *parser) peek() string { return p.ts[0].text }

func (p *parser) next() token {
	t := p.ts[0]
	if len(p.ts) > 1 { // the last token, empty, stays
		p.ts = p.ts[1:]
	}
	return t
}

func (p *parser) expect(texts ...string) {
	for _, s := range texts {
		if t := p.next(); t.text != s {
			fail(t.line, "%q, want %q", t.text, s)
		}
	}
}

// number reads a small count.
func (p *parser) number(limit int) int {
	t := p.next()
	n, err := strconv.Atoi(t.text)
	if err != nil || n < 0 || n > limit {
		fail(t.line, "%q, want a number up to %d", t.text, limit)
	}
	return n
}

// externShared reads the one array of dynamic shared memory.
func (p *parser) externShared() {
	p.expect(".shared", ".align")
	p.number(128)
	p.expect(".b8")
	p.shared[p.next().text] = true
	p.expect("[", "]", ";")
}

func (p *parser) entry() *Kernel {
	p.expect(".entry")
	name := p.next()
	k := &Kernel{Name: name.text, Threads: maxThreads,
		names: map[string]register{}, const32: map[constant]int{}, const64: map[uint64]int{}, constPred: map[bool]int{}}
	p.k, p.labels, p.params = k, map[string]int{}, map[string]int{}
	p.expect("(")
	for p.peek() == ".param" {
		p.next()
		t := p.next()
		size := map[string]int{".u32": 4, ".f32": 4, ".u64": 8}[t.text]
		if size == 0 {
			fail(t.line, "parameter of type %q: only .u32, .f32 and .u64 are run", t.text)
		}
		p.params[p.next().text] = len(k.Params)
		k.Params = append(k.Params, size)
		if p.peek() == "," {
			p.next()
		}
	}
	p.expect(")")
	for p.peek() != "{" {
		switch t := p.next(); t.text {
		case ".maxntid":
			k.Threads = p.number(maxThreads)
			p.expect(",", "1", ",", "1")
		case ".minnctapersm":
			p.number(32)
		default:
			fail(t.line, "%q before the body of %s: want .maxntid, .minnctapersm or {", t.text, k.Name)
		}
	}
	p.next()
	p.body()
	return k
}

// body reads registers, labels and instructions up to the closing brace.
func (p *parser) body() {
	k := p.k
	for p.peek() != "}" {
		t := p.next()
		switch {
		case t.text == "":
			fail(t.line, "%s ends without }", k.Name)
		case t.text == ".reg":
			p.registers()
		case t.text == ".pragma":
			p.next()
			p.expect(";")
		case p.peek() == ":":
			p.next()
			if _, ok := p.labels[t.text]; ok {
				fail(t.line, "a second label %s", t.text)
			}
			p.labels[t.text] = len(k.code)
		default:
			p.instruction(t)
		}
	}
	end := p.next()
	isConstant := make([]bool, k.r32+k.r64+k.preds)
	for _, at := range k.placeConstants() {
		isConstant[at] = true
	}
	for i := range k.code {
		in := &k.code[i]
		k.place(in, isConstant)
		if in.label == "" {
			continue
		}
		to, ok := p.labels[in.label]
		if !ok {
			fail(in.line, "no label %s in %s", in.label, k.Name)
		}
		in.target = to
	}
	if n := len(k.code); n == 0 || k.code[n-1].op.code != opRet || k.code[n-1].pred >= 0 {
		fail(end.line, "%s does not end with ret", k.Name)
	}
}

// setPlace is where a warp's set has the first register of a class.
func (k *Kernel) setPlace(c class) int {
	switch c {
	case class64:
		return k.r32
	case classPred:
		return k.r32 + k.r64
	}
	return 0
}

// placeConstants notes the places of constants in a warp's set.
func (k *Kernel) placeConstants() []int {
	for _, r := range k.const32 {
		k.constants = append(k.constants, r)
	}
	for _, r := range k.const64 {
		k.constants = append(k.constants, k.setPlace(class64)+r)
	}
	for _, r := range k.constPred {
		k.constants = append(k.constants, k.setPlace(classPred)+r)
	}
	return k.constants
}

// place finds an instruction's registers.
func (k *Kernel) place(in *instr, isConstant []bool) {
	for i, r := range in.s {
		if at := k.setPlace(in.classes[i]) + r; !isConstant[at] {
			in.reads = append(in.reads, at)
		}
		switch {
		case i >= len(in.r32):
		case in.classes[i] == class64:
			in.r64[i] = r
		case in.classes[i] != classPred:
			in.r32[i] = r
		}
	}
	if in.op.code == opShuffle {
		tid, ok := k.const32[constant{special: specials[0]}]
		in.steady = len(in.reads) == 0 || len(in.reads) == 1 && in.reads[0] == in.s[0]
		in.steady = in.steady && !(ok && slices.Contains(in.s[1:], tid))
	}
	in.guard = k.setPlace(classPred) + in.pred
	if len(in.d) > 0 {
		in.writes = k.setPlace(classOf(in.op.operands[0]))
	}
}

// maxRegisters bounds what one .reg line declares.
const maxRegisters = 1 << 14

func (p *parser) registers() {
	t := p.next()
	c, ok := map[string]class{".pred": classPred, ".f32": class32, ".b32": class32, ".b16": class16, ".b64": class64}[t.text]
	if !ok {
		fail(t.line, "registers of type %q: only .pred, .b16, .b32, .f32 and .b64 are run", t.text)
	}
	name := p.next()
	p.expect("<")
	count := map[class]*int{class32: &p.k.r32, class16: &p.k.r32, class64: &p.k.r64, classPred: &p.k.preds}[c]
	for i := range p.number(maxRegisters) {
		r := name.text + strconv.Itoa(i)
		if _, ok := p.k.names[r]; ok {
			fail(name.line, "register %s is declared twice", r)
		}
		p.k.names[r] = register{c, *count}
		*count++
	}
	p.expect(">", ";")
}

func (p *parser) instruction(t token) {
	in := instr{line: t.line, pred: -1}
	if t.text == "@" {
		if p.peek() == "!" {
			p.next()
			in.not = true
		}
		g := p.next()
		r, ok := p.k.names[g.text]
		if !ok || r.class != classPred {
			fail(g.line, "guard %q is no predicate register", g.text)
		}
		in.pred = r.index
		t = p.next()
	}
	in.name = t.text
	in.op = opcodes[t.text]
	if in.op == nil {
		fail(t.line, "instruction %q is not among those that are run", t.text)
	}
	for i, form := range in.op.operands {
		if i > 0 {
			p.expect(",")
		}
		p.operand(&in, form)
	}
	p.expect(";")
	p.k.code = append(p.k.code, in)
}

// operand reads one operand of the given form:
//
//	d D p   a 32-bit, 64-bit or predicate register that is written
//	s S q   the same, read; numbers and special registers too
//	h g     a 16-bit register, written and read
//	d4 s2   so many of them in braces
//	s@ S@   an address in shared or global memory
//	P       a parameter
//	i       a number
//	L       a label
func (p *parser) operand(in *instr, form string) {
	t := p.ts[0]
	switch form {
	case "L":
		in.label = p.next().text
		return
	case "i":
		in.count = p.number(1 << 16)
		if in.op.code == opCopy && in.count != in.op.size {
			fail(t.line, "copy of %q bytes, want %d", t.text, in.op.size)
		}
		return
	case "P":
		p.expect("[")
		name := p.next()
		i, ok := p.params[name.text]
		if !ok || p.k.Params[i] != in.op.size {
			fail(name.line, "%s: no parameter %q of %d bytes", in.name, name.text, in.op.size)
		}
		in.count = i
		p.expect("]")
		return
	case "s@", "S@":
		p.address(in, form[:1])
		return
	}
	n := 1
	if len(form) > 1 {
		n, _ = strconv.Atoi(form[1:])
		p.expect("{")
	}
	for i := range n {
		if i > 0 {
			p.expect(",")
		}
		if !strings.Contains("dhDp", form[:1]) {
			p.source(in, classOf(form))
			continue
		}
		r, ok := p.k.names[p.next().text]
		if !ok || r.class != classOf(form) {
			fail(t.line, "%s writes %s, got %q", in.name, classNames[classOf(form)], t.text)
		}
		in.d = append(in.d, r.index)
	}
	if len(form) > 1 {
		p.expect("}")
	}
}

var classNames = map[class]string{class32: "a 32-bit register", class16: "a 16-bit register", class64: "a 64-bit register", classPred: "a predicate register"}

var classes = [256]class{'d': class32, 's': class32, 'h': class16, 'g': class16, 'D': class64, 'S': class64, 'p': classPred, 'q': classPred}

func classOf(form string) class {
	return classes[form[0]]
}

func (p *parser) address(in *instr, form string) {
	p.expect("[")
	p.source(in, classOf(form))
	if p.peek() == "+" {
		p.next()
		t := p.ts[0]
		v, _, ok := p.integer()
		if !ok || v > math.MaxInt32 || v < math.MinInt32 {
			fail(t.line, "offset %q of an address", t.text)
		}
		if form == "S" {
			in.global = v
		} else {
			in.shared = v
		}
	}
	p.expect("]")
}

// integer reads a number with an optional sign; text is what was there.
func (p *parser) integer() (v int64, text token, ok bool) {
	sign := ""
	if p.peek() == "-" {
		sign = p.next().text
	}
	text = p.next()
	text.text = sign + text.text
	v, err := strconv.ParseInt(text.text, 0, 64)
	return v, text, err == nil
}

// specials are the special registers that kernels may read.
var specials = []string{"%tid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z"}

// source reads a register of an instruction. Numbers, special registers and the name
// of the shared array become constants with a register each.
func (p *parser) source(in *instr, c class) {
	in.s, in.classes = append(in.s, p.read(in, c)), append(in.classes, c)
}

// read is the index of what source reads.
func (p *parser) read(in *instr, c class) int {
	t := p.ts[0]
	if r, ok := p.k.names[t.text]; ok {
		p.next()
		if r.class != c {
			fail(t.line, "%s reads %s, got %q", in.name, classNames[c], t.text)
		}
		return r.index
	}
	if c == class32 && (slices.Contains(specials, t.text) || p.shared[t.text] || strings.HasPrefix(t.text, "0f")) {
		p.next()
		k := constant{special: t.text}
		if p.shared[t.text] {
			k = constant{value: sharedBase}
		} else if bits, ok := strings.CutPrefix(t.text, "0f"); ok {
			v, err := strconv.ParseUint(bits, 16, 32)
			if err != nil || len(bits) != 8 {
				fail(t.line, "%q, want 0f and eight hexadecimal digits", t.text)
			}
			k = constant{value: uint32(v)}
		}
		return constantRegister(p.k.const32, k, &p.k.r32)
	}
	if c == classPred && in.op.code != opMovPred || t.text != "-" && (t.text == "" || t.text[0] < '0' || t.text[0] > '9') {
		fail(t.line, "%s reads %s, got %q", in.name, classNames[c], t.text)
	}
	v, number, ok := p.integer()
	if !ok {
		fail(number.line, "%q, want a number", number.text)
	}
	switch c {
	case class64:
		return constantRegister(p.k.const64, uint64(v), &p.k.r64)
	case classPred:
		return constantRegister(p.k.constPred, v != 0, &p.k.preds)
	}
	if v < math.MinInt32 || v > math.MaxUint32 || c == class16 && (v < math.MinInt16 || v > math.MaxUint16) {
		fail(t.line, "%s: %d does not fit its register", in.name, v)
	}
	if c == class16 {
		v &= 0xffff
	}
	return constantRegister(p.k.const32, constant{value: uint32(v)}, &p.k.r32)
}

// constantRegister is the register of a constant, a new one where there is none yet.
func constantRegister[T comparable](known map[T]int, v T, count *int) int {
	i, ok := known[v]
	if !ok {
		i = *count
		known[v] = i
		*count++
	}
	return i
}

func (in *instr) String() string { return fmt.Sprintf("%s, line %d", in.name, in.line) }
