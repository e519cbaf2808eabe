package chart

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"image/png"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/scaling"
)

func laws(t *testing.T, law scaling.Law, names ...string) []Series {
	t.Helper()
	var all []Series
	for i, name := range names {
		var rs []scaling.Run
		for _, n := range []float64{1e6, 4e6, 1.6e7, 6.4e7} {
			for _, m := range []float64{20, 320} {
				r, err := scaling.Size(n, 0, m, 0)
				if err != nil {
					t.Fatal(err)
				}
				r.Name = fmt.Sprint(n, m)
				r.Loss = 1 + (100+10*float64(i))*math.Pow(n, -0.2) + 100*math.Pow(r.D, -0.2)
				r.Err = 0.8 - math.Exp(-r.Loss) + 0.001*float64(len(rs)%3)
				rs = append(rs, r)
			}
		}
		f, err := scaling.New(law, rs[:6], scaling.Options{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Series{Name: name, Fit: f, Other: rs, Slope: &scaling.Interval{Low: -0.11, High: -0.09}})
	}
	return all
}

func render(t *testing.T, format string, s []Series) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Draw(&b, format, "title", s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Charts are valid pictures, the same bytes each time, and say what is needed
// to read them.
func TestDraw(t *testing.T) {
	for _, law := range scaling.Laws {
		for _, names := range [][]string{{""}, {"dense", "lowrank 63 %"}} {
			s := laws(t, law, names...)
			picture := render(t, "png", s)
			if !bytes.Equal(picture, render(t, "png", s)) {
				t.Errorf("%s: two drawings differ", law)
			}
			img, err := png.Decode(bytes.NewReader(picture))
			if err != nil || img.Bounds().Dx() < 600 {
				t.Errorf("%s: %v", law, err)
			}
			svg := render(t, "svg", s)
			if !bytes.Equal(svg, render(t, "svg", s)) {
				t.Errorf("%s: two drawings differ", law)
			}
			words := texts(t, svg)
			want := []string{"title", "fitted", "predicted"}
			switch law {
			case scaling.Error:
				want = append(want, "loss L (nats per token)", "average top-1 error")
			case scaling.Joint, scaling.Compute:
				if len(names) == 1 {
					want = append(want, "M = 20", "M = 320")
				}
				want = append(want, "training compute C (FLOPs)", "reducible loss L - E (nats per token)", "1e16")
			default:
				want = append(want, "slope")
			}
			if len(names) > 1 {
				want = append(want, "dense: ", "lowrank 63 %: ")
				if law != scaling.Error {
					want = append(want, "(-0.110 to -0.090)")
				}
			}
			for _, w := range want {
				if !strings.Contains(words, w) {
					t.Errorf("%s %v: %q is nowhere in %q", law, names, w, words)
				}
			}
		}
	}
}

// texts are the words of an SVG picture; it has to be well-formed.
func texts(t *testing.T, svg []byte) string {
	t.Helper()
	var b strings.Builder
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := tok.(xml.CharData); ok {
			b.Write(bytes.TrimSpace(c))
			b.WriteByte('\n')
		}
	}
}

// Runs that no logarithm can show are no picture.
func TestNothingToDraw(t *testing.T) {
	s := laws(t, scaling.Joint, "")
	for i := range s[0].Fit.Points {
		s[0].Fit.Points[i].Loss = 0.5
	}
	s[0].Other = nil
	if err := Draw(io.Discard, "png", "", s); err == nil {
		t.Error("want an error")
	}
}

func TestFormat(t *testing.T) {
	for name, want := range map[string]string{"a.png": "png", "b.x.SVG": "svg", "a.pdf": "", "png": ""} {
		got, err := Format(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
