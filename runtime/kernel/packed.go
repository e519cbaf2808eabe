package kernel

import "unsafe"

// Layout is the shape of a pack: columns, padding included, and the depths of the
// blocks of k.
type Layout struct {
	Columns int
	KBlocks []int
	// Panel is the width of the panels but the last: [Panel], or that of a group of
	// blocks whose lanes lie side by side.
	Panel int
}

// Panels counts the panels.
func (l Layout) Panels() int { return max(1, l.Columns/l.Panel) }

// Width is the width of a panel.
func (l Layout) Width(panel int) int {
	if panel == l.Panels()-1 {
		return l.Columns - panel*l.Panel
	}
	return l.Panel
}

// Packed are weights as kernels read them: [k block][panel][groups of k][width]
// [group], with what scales the format has behind the groups of each panel.
type Packed struct {
	Format Format
	Layout Layout
	Data   []byte // 64-byte aligned
	blocks []int  // where each block of k begins, in bytes, and where the last ends
	steps  []int  // from one panel of each block to the next
}

// NewPacked is an empty pack in memory that alloc gives, so many bytes, 64-byte
// aligned.
func NewPacked(f Format, l Layout, alloc func(bytes int) []byte) *Packed {
	p := &Packed{Format: f, Layout: l, blocks: []int{0}}
	for _, kc := range l.KBlocks {
		end := p.blocks[len(p.blocks)-1] + (l.Panels()-1)*f.PanelBytes(l.Panel, kc) + f.PanelBytes(l.Width(l.Panels()-1), kc)
		p.blocks = append(p.blocks, end)
		p.steps = append(p.steps, f.PanelBytes(l.Panel, kc))
	}
	p.Data = alloc(p.blocks[len(l.KBlocks)])
	return p
}

// PanelStep leads from one panel of a block of k to the next, in bytes.
func (p *Packed) PanelStep(block int) int { return p.steps[block] }

// From is a block of k from a panel on.
func (p *Packed) From(block, panel int) []byte {
	return p.Data[p.blocks[block]+panel*p.PanelStep(block) : p.blocks[block+1]]
}

// Panel is one panel of a block of k.
func (p *Packed) Panel(block, panel int) []byte {
	return p.From(block, panel)[:p.Format.PanelBytes(p.Layout.Width(panel), p.Layout.KBlocks[block])]
}

// Floats views bytes as entries of a format of float32.
func Floats(b []byte) []float32 {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/EntryBytes)
}
