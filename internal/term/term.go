// Package term is what commands show: tables, JSON, numbers as people read them,
// and progress, as a bar on a terminal and as lines in a log.
package term

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"

	"golang.org/x/term"
)

// JSON writes one object.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Table writes rows in columns; the first row is the heading.
func Table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, r := range rows {
		for _, c := range r {
			fmt.Fprintf(t, "%s\t", c)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// terminalWidth is the width of the terminal that w is, and 0 elsewhere.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// Count writes numbers as people read them: 90.2M.
func Count(n float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if n >= u.size {
			return fmt.Sprintf("%.1f%s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%.0f", n)
}

// Percent writes a share.
func Percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

// DropEmpty leaves out the columns that have a heading only.
func DropEmpty(lines [][]string) [][]string {
	var out [][]string
	for range lines {
		out = append(out, nil)
	}
	for c := range lines[0] {
		if !slices.ContainsFunc(lines[1:], func(l []string) bool { return l[c] != "" }) {
			continue
		}
		for i, l := range lines {
			out[i] = append(out[i], l[c])
		}
	}
	return out
}
