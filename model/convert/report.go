package convert

import (
	"fmt"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/project"
)

// Report says what a conversion has made.
type Report struct {
	// From and Out are folders of checkpoints.
	From string    `json:"from"`
	Out  string    `json:"out"`
	Kind spec.Kind `json:"kind"`
	// Weights are those of all feed-forward networks, biases not counted, Dense what
	// they were, and Share the ratio.
	Weights int64         `json:"ffn_weights"`
	Dense   int64         `json:"dense_ffn_weights"`
	Share   float64       `json:"share"`
	Layers  []LayerReport `json:"layers"`
	// Effects are what the layers' shares of the budget follow.
	Effects []Effect `json:"effects,omitempty"`
}

// LayerReport is that of one layer.
type LayerReport struct {
	Layer int `json:"layer"`
	// Structure is what the network has become, and Hidden its inner width.
	Structure spec.Structure `json:"structure"`
	FFN       int            `json:"ffn"`
	Weights   int            `json:"weights"`
	Share     float64        `json:"share"`
	// FC1 and FC2 are 0 of a network that stayed as it was.
	FC1 Errors `json:"fc1"`
	FC2 Errors `json:"fc2"`
}

// Errors are those of one linear.
type Errors struct {
	// Weights is the relative error of the weights, in the Frobenius norm.
	Weights float64 `json:"weight_error"`
	// Outputs is that of the outputs on the calibration's text, in the root of mean
	// squares: nil where there was none.
	Outputs *float64 `json:"output_error,omitempty"`
}

func errorsOf(p project.Projection) Errors {
	e := Errors{Weights: p.WeightError()}
	if p.AllOutput > 0 {
		out := p.OutputError()
		e.Outputs = &out
	}
	return e
}

func (n network) report(i int, m spec.Model) LayerReport {
	return LayerReport{Layer: i, Structure: m.Structure(i), FC1: errorsOf(n.fc1), FC2: errorsOf(n.fc2)}
}

// count fills in the weights of a model that was converted.
func (r *Report) count(m, from spec.Model) {
	r.Weights, r.Dense = m.Count().MLPWeights, from.Count().MLPWeights
	r.Share = float64(r.Weights) / float64(r.Dense)
	for i := range r.Layers {
		l := &r.Layers[i]
		l.FFN, l.Weights = m.FFN, weights(m, m.Structure(l.Layer))
		l.Share = float64(l.Weights) / float64(weights(from, from.Structure(l.Layer)))
	}
}

// Table has a line of heading, one for each layer, and one for all.
func (r *Report) Table() [][]string {
	rows := [][]string{{"layer", "structure", "weights", "share", "fc1 weights' error", "fc2 weights' error", "fc1 outputs' error", "fc2 outputs' error"}}
	for _, l := range r.Layers {
		text := l.Structure.Text()
		if l.Structure.Kind == spec.Dense {
			text += fmt.Sprintf(", %d wide", l.FFN)
		}
		row := []string{fmt.Sprint(l.Layer), text, term.Count(float64(l.Weights)), term.Percent(l.Share), percent(&l.FC1.Weights), percent(&l.FC2.Weights), percent(l.FC1.Outputs), percent(l.FC2.Outputs)}
		rows = append(rows, row)
	}
	rows = append(rows, []string{"all", "", term.Count(float64(r.Weights)), term.Percent(r.Share), "", "", "", ""})
	return term.DropEmpty(rows)
}

// percent writes an error to three digits.
func percent(x *float64) string {
	if x == nil {
		return ""
	}
	return fmt.Sprintf("%.2f %%", 100**x)
}
