package forecast

import (
	"math"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/scaling"
)

const goodFit = `{"law": "joint", "coefficients": {"alpha": 100, "beta": 200, "b": -0.2, "E": 1.5},
"points": [{"name": "a", "N": 1e6, "D": 2e7, "C": 1.2e14, "loss": 9, "weight": 1}, {"name": "b", "N": 1e7, "D": 2e8, "C": 1.2e16, "loss": 7, "weight": 1},
{"name": "c", "N": 1e8, "D": 2e9, "C": 1.2e18, "loss": 5, "weight": 1}, {"name": "d", "N": 1e6, "D": 2e8, "C": 1.2e15, "loss": 8, "weight": 1}]}`

func TestParse(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"good":      {"", "", ""},
		"group":     {goodFit, `{"fits": [` + goodFit + `]}`, ""},
		"no JSON":   {goodFit, "L = 3", "fit.json: want what sffn scaling fit --json prints: 1:2: invalid character"},
		"type":      {`-0.2`, `"low"`, "fit.json: want what sffn scaling fit --json prints: 1:"},
		"law":       {"joint", "cubic", `fit.json: law: unknown law "cubic"`},
		"unknown":   {`"E"`, `"F"`, "E is missing"},
		"extra":     {`"E"`, `"F": 1, "E"`, `unknown coefficient "F"`},
		"sign":      {"-0.2", "0.2", "b is 0.2, which no fit gives"},
		"negative":  {"200", "-200", "beta is -200, which no fit gives"},
		"no fit":    {goodFit, `{"fits": [null]}`, "law: missing in one of the fits"},
		"empty fit": {goodFit, `{"fits": [{}]}`, "law: missing in one of the fits"},
		"bad run":   {`"N": 1e7`, `"N": -1`, "run b: N is -1, want a positive number"},
		"nothing":   {goodFit, `{}`, `law: unknown law ""`},
	} {
		text := strings.Replace(goodFit, tt.old, tt.new, 1)
		fs, err := parse("fit.json", []byte(text))
		if tt.want == "" && (err != nil || len(fs) != 1 || fs[0].Derived["N_D_form"]["A"] != 100) {
			t.Errorf("%s: %v, %v", name, fs, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want it to contain %q", name, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(goodFit))
	f.Add([]byte(`{"fits": [{"law": "power", "coefficients": {"lam": 1, "exponent": -1}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		fs, err := parse("fuzz", text)
		if err != nil {
			return
		}
		for _, f := range fs {
			loss := f.At(scaling.Run{N: 1e6, D: 1e7, C: 6e13, Loss: 3})
			if f.Law != scaling.Error && loss < f.Limit() && !math.IsNaN(loss) {
				t.Errorf("loss %g below its limit", loss)
			}
			f.Reach(3, 20)
			f.LossFor(0.5)
		}
	})
}
