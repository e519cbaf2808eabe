package runs

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/internal/frugal"
)

const good = `name,kind,N,D,loss,loss_ptb
small,dense,1e6,2e7,4.5,5.1
"large, wide",dense,1e7,2e8,3.5,4.1
thin,lowrank,1e6,4e7,4.4,4.9
`

func parse(t testing.TB, text string) *Table {
	t.Helper()
	table, err := Parse("runs.csv", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestRuns(t *testing.T) {
	rs, err := parse(t, "\ufeff"+good).Runs(Columns{Loss: "loss"})
	if err != nil {
		t.Fatal(err)
	}
	if r := rs[1]; len(rs) != 3 || r.Name != "large, wide" || r.N != 1e7 || r.D != 2e8 || r.C != 1.2e16 || r.Loss != 3.5 || r.Err != 0 || r.Weight != 1 {
		t.Errorf("got %+v", rs)
	}
	// Any two of N, D, M and C do; a column of FLOPs replaces 6 N D.
	for _, text := range []string{"N,M\n1e6,20\n", "D,M\n2e7,20\n", "M,C\n20,1.2e14\n", "N,C\n1e6,1.2e14\n", "D,C\n2e7,1.2e14\n", "N,D,M,C\n1e6,2e7,20,1.2e14\n"} {
		rs, err := parse(t, text).Runs(Columns{})
		if err != nil {
			t.Fatal(err)
		}
		if r := rs[0]; r.Name != "1" || r.N < 999999 || r.N > 1000001 || r.M() < 19.999 || r.M() > 20.001 {
			t.Errorf("%q: got %+v", text, r)
		}
	}
	rs, err = parse(t, "N,D,flops,w\n1e6,2e7,5e14,3\n").Runs(Columns{Compute: "flops", Weight: "w"})
	if err != nil || rs[0].C != 5e14 || rs[0].Weight != 3 {
		t.Errorf("got %+v, %v", rs, err)
	}
}

func TestErrors(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"not a number":  {"3.5", "three", `runs.csv:3:29: column loss: "three" is not a finite number`},
		"empty":         {"3.5", "", `runs.csv:3:29: column loss: "" is not a finite number`},
		"NaN":           {"3.5", "NaN", `runs.csv:3:29: column loss: "NaN" is not a finite number`},
		"infinite":      {"3.5", "1e999", `column loss: "1e999" is not a finite number`},
		"negative":      {"1e7", "-1e7", "runs.csv:3:21: column N: -1e+07 is out of range, want a positive number"},
		"missing":       {",loss,", ",nll,", `runs.csv: no column "loss"; there are name, kind, N, D, nll, loss_ptb`},
		"no size":       {",D,", ",tokens,", "runs.csv: want two of the columns N (parameters), D (tokens), M (D/N) and C (FLOPs); there are name"},
		"twice":         {"loss_ptb", "loss", `runs.csv:1:20: column 6 is named "loss", want a name that no other has`},
		"unnamed":       {"loss_ptb", "", `column 6 is named ""`},
		"short line":    {",4.1", "", "runs.csv:3: 5 fields, the first line has 6"},
		"quote":         {"thin", `"thin`, "runs.csv:4:"},
		"header alone":  {good[strings.Index(good, "\n"):], "\n", "runs.csv: no runs; want a line of column names"},
		"nothing":       {good, "", "runs.csv: no runs"},
		"inner quote":   {"thin", `th"in`, `runs.csv:4:3: bare "`},
		"binary":        {good, "\x00\x01\xff", "runs.csv: no runs"},
		"leading blank": {good, "\n\n\n", "runs.csv: no runs"},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if text == good {
			t.Fatalf("%s: nothing replaced", name)
		}
		table, err := Parse("runs.csv", []byte(text))
		if err == nil {
			_, err = table.Runs(Columns{Loss: "loss"})
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to contain %q", name, err, tt.want)
		}
	}
}

func TestPick(t *testing.T) {
	for _, tt := range []struct {
		columns, usual, want, err string
	}{
		{"loss,loss_a", "loss", "loss", ""},
		{"loss_a,N", "loss", "loss_a", ""},
		{"loss_a,loss_b", "loss loss_b", "loss_b", ""},
		{"loss_a,loss_b", "loss", "", "several columns can be meant: loss_a, loss_b"},
		{"N,D", "loss", "", `no column "loss"; there are N, D`},
	} {
		got, err := parse(t, tt.columns+"\n1,1\n").Pick(strings.Fields(tt.usual)...)
		if got != tt.want || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: got %q, %v", tt.columns, got, err)
		}
	}
}

func TestWhere(t *testing.T) {
	table := parse(t, good)
	for filter, want := range map[string]string{
		"kind=dense":                      "small large, wide",
		"kind!=dense":                     "thin",
		"N=1000000":                       "small thin",
		"N = 1e6 , D > 2e7":               "thin",
		"N>=1e7 or kind=lowrank":          "large, wide thin",
		"loss<4.5":                        "large, wide thin",
		"loss<=4.5,loss>4.4":              "small",
		"kind=lowrank or N=1e7,D=2e8":     "large, wide thin",
		"name=small or name=thin":         "small thin",
		"kind=lowrank,N=1e7 or D=4e7,N>0": "thin",
	} {
		kept, err := table.Where(filter)
		if err != nil {
			t.Error(filter, err)
			continue
		}
		var names []string
		for _, r := range kept.Rows {
			names = append(names, r.cells[0])
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %s, want %s", filter, got, want)
		}
	}
	for filter, want := range map[string]string{
		"dataset=rpj":  `runs.csv: no column "dataset"; there are name, kind, N, D, loss, loss_ptb`,
		"kind":         `"kind" is no condition; want a column, one of = != < <= > >=, and a value`,
		"":             `"" is no condition`,
		"kind=dense,":  `"" is no condition`,
		"kind=sparse":  `none of 3 runs fits "kind=sparse"; kind is dense, lowrank`,
		"kind>1":       `runs.csv:2:7: column kind: "dense" is not a number, and compares by = and != only`,
		"N<small":      `N<small: "small" is not a number; text compares by = and != only`,
		"N<1 or D<1,":  `"" is no condition`,
		"N>1e6,D>1e99": `none of 3 runs fits`,
	} {
		if _, err := table.Where(filter); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want it to contain %q", filter, err, want)
		}
	}
}

func TestGroupsAndJoin(t *testing.T) {
	a, b := parse(t, good), parse(t, "name,N,D,loss,lr\nother,1e8,2e9,3,0.1\n")
	all := Join(a, b)
	if len(all.Rows) != 4 || strings.Join(all.Columns, " ") != "name kind N D loss loss_ptb lr" {
		t.Fatalf("joined %v", all)
	}
	gs, err := all.Groups("kind")
	if err != nil || len(gs) != 3 || gs[0].Value != "dense" || len(gs[0].Rows) != 2 || gs[2].Value != "" {
		t.Errorf("got %v, %v", gs, err)
	}
	if _, err := all.Runs(Columns{Loss: "loss"}); err != nil {
		t.Error(err)
	}
	if _, err := all.Runs(Columns{Loss: "loss_ptb"}); err == nil || !strings.Contains(err.Error(), `column loss_ptb: "" is not a finite number`) {
		t.Error(err)
	}
	if _, err := all.Groups("dataset"); err == nil {
		t.Error("no error for a column that is not there")
	}
}

// A table comes back as it was written.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cell := rapid.StringMatching(`[a-z0-9,"=<> \n]{0,8}`)
		rows := [][]string{{"a", "b"}}
		for range rapid.IntRange(1, 5).Draw(t, "rows") {
			rows = append(rows, []string{cell.Draw(t, "a"), cell.Draw(t, "b")})
		}
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		if err := w.WriteAll(rows); err != nil {
			t.Fatal(err)
		}
		table, err := Parse("x", b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(table.Rows) != len(rows)-1 {
			t.Fatalf("%d rows of %d", len(table.Rows), len(rows)-1)
		}
		for i, r := range table.Rows {
			for j, c := range r.cells {
				if c != strings.TrimSpace(rows[i+1][j]) {
					t.Errorf("cell %d, %d is %q, want %q", i, j, c, rows[i+1][j])
				}
			}
		}
		var written bytes.Buffer
		if err := table.Write(&written); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("x", written.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range again.Rows {
			if !slices.Equal(r.cells, table.Rows[i].cells) {
				t.Errorf("row %d is %q, was %q", i, r.cells, table.Rows[i].cells)
			}
		}
	})
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Read(filepath.Join(dir, "no.csv")); err == nil || !strings.Contains(err.Error(), "no.csv") {
		t.Error(err)
	}
	if _, _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "no finished run in or below it: want folders that sffn train made") {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "metrics.jsonl"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "no checkpoint") {
		t.Error(err)
	}
	big := filepath.Join(dir, "big.csv")
	if err := os.WriteFile(big, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, maxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(big); err == nil || !strings.Contains(err.Error(), "too long for a table of runs") {
		t.Error(err)
	}
}

// Tables that ask for much are refused at little cost.
func TestHostile(t *testing.T) {
	names := &strings.Builder{}
	for i := range 500_000 {
		fmt.Fprintf(names, "c%d,", i)
	}
	for want, text := range map[string]string{
		"500001 columns are too many for a table of runs, want at most 1000": names.String(),
		"more than the 262144 cells":                                         "N,D\n" + strings.Repeat("1,2\n", 1<<18),
		`h.csv:1:3: column 2 is named "N"`:                                   strings.Repeat("N,", 900),
		"no runs":                                                            strings.Repeat("\n", 1<<20),
		`extraneous or missing " in quoted-field`:                            "N,\"" + strings.Repeat("\n", 1<<20),
	} {
		frugal.Run(t, 128<<20, func() {
			if _, err := Parse("h.csv", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 1000 {
				t.Errorf("got %.300v, want it to contain %q", err, want)
			}
		})
	}
	big := filepath.Join(t.TempDir(), "big.csv")
	if err := os.WriteFile(big, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 10<<30); err != nil {
		t.Fatal(err)
	}
	frugal.Run(t, 128<<20, func() {
		if _, _, err := Read(big); err == nil || !strings.Contains(err.Error(), "too long for a table of runs") {
			t.Error(err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(good, "kind=dense,N>1")
	f.Add("N,D\n1,\"2\n\"\n", "N=1 or D!=2")
	f.Add(strings.Repeat("a,", 30)+"\n", "a=1")
	f.Add("N,D,\"M"+strings.Repeat("\n", 30)+"\"\n1,2,3\n", "N=1")
	f.Fuzz(func(t *testing.T, text, filter string) {
		table, err := Parse("fuzz", []byte(text))
		if err != nil {
			return
		}
		if kept, err := table.Where(filter); err == nil && len(kept.Rows) == 0 {
			t.Error("no rows and no error")
		}
		rs, err := table.Runs(Columns{Loss: table.Columns[0]})
		for _, r := range rs {
			if err == nil && !(r.N > 0 && r.D > 0) {
				t.Errorf("accepted %+v", r)
			}
		}
	})
}
