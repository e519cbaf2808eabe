package kernel

// Packed weights lie in panels of 32 columns. The last one of a product whose
// columns leave 16 over is 48 wide, or 16 where there are no more.
const (
	Panel     = 32
	HalfPanel = 16
	LongPanel = 48
)

// LaneGroup is the number of neighbouring blocks whose entries kernels with lanes
// across blocks take at once, on every instruction set.
const LaneGroup = 16

// Width is a class of tiles by their columns.
type Width int

// The widths: two panels side by side, one, and the last panels that are not 32
// wide.
const (
	Pair Width = iota
	Full
	Half
	Long
	NumWidths
)

// Widths holds the columns of each class.
var Widths = [NumWidths]int{Pair: 2 * Panel, Full: Panel, Half: HalfPanel, Long: LongPanel}

// WidthOf is the class of a tile over one panel of so many columns.
func WidthOf(panel int) Width {
	switch panel {
	case HalfPanel:
		return Half
	case LongPanel:
		return Long
	}
	return Full
}

// PanelWidth is the width of the panels that a tile of nr columns reads: a
// 64-wide tile takes two.
func PanelWidth(nr int) int {
	if nr == 2*Panel {
		return Panel
	}
	return nr
}
