// Package runs reads tables of trained models: from CSV files, and from the
// folders that sffn train leaves.
package runs

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/scaling"
)

// Table is what is known of some models, a row each.
type Table struct {
	Name    string
	Columns []string
	Rows    []Row
}

// Row is one model.
type Row struct {
	cells []string
	// places say where the cells come from: file, line and column.
	places []string
}

// Limits of the files that are read: a cell takes many times the memory of its
// text.
const (
	maxSize    = 16 << 20
	maxColumns = 1000
	maxCells   = 1 << 18
)

// Read reads a CSV file, a run's folder, or a folder with runs somewhere below
// it. Notes tell which runs were left out.
func Read(name string) (t *Table, notes []string, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		return readFolder(name)
	}
	text, err := disk.ReadText(name, maxSize, " for a table of runs")
	if err != nil {
		return nil, nil, err
	}
	t, err = Parse(name, text)
	return t, nil, err
}

// Parse reads the text of a CSV file whose first line names the columns.
func Parse(name string, text []byte) (*Table, error) {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	r.ReuseRecord = true
	t := &Table{Name: name}
	for {
		cells, err := r.Read()
		if err == io.EOF {
			break
		}
		if e := (*csv.ParseError)(nil); errors.As(err, &e) {
			if errors.Is(err, csv.ErrFieldCount) {
				return nil, fmt.Errorf("%s:%d: %d fields, the first line has %d", name, e.Line, len(cells), len(t.Columns))
			}
			return nil, fmt.Errorf("%s:%d:%d: %w", name, e.Line, e.Column, e.Err)
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(cells) > maxColumns {
			return nil, fmt.Errorf("%s: %d columns are too many for a table of runs, want at most %d", name, len(cells), maxColumns)
		}
		if (len(t.Rows)+1)*len(cells) > maxCells {
			return nil, fmt.Errorf("%s: more than the %d cells of the largest table of runs", name, maxCells)
		}
		row := Row{cells: slices.Clone(cells)}
		for i := range cells {
			line, column := r.FieldPos(i)
			row.places = append(row.places, fmt.Sprintf("%s:%d:%d", name, line, column))
			row.cells[i] = strings.TrimSpace(cells[i])
		}
		if t.Columns != nil {
			t.Rows = append(t.Rows, row)
			continue
		}
		t.Columns = row.cells
		for i, c := range t.Columns {
			if c == "" || slices.Contains(t.Columns[:i], c) {
				return nil, fmt.Errorf("%s: column %d is named %q, want a name that no other has", row.places[i], i+1, c)
			}
		}
	}
	if len(t.Rows) == 0 {
		return nil, fmt.Errorf("%s: no runs; want a line of column names and a line for each run", name)
	}
	return t, nil
}

// Write writes the table as CSV.
func (t *Table) Write(w io.Writer) error {
	c := csv.NewWriter(w)
	if err := c.Write(t.Columns); err != nil {
		return err
	}
	for _, r := range t.Rows {
		if err := c.Write(r.cells); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// Join puts tables together. A column that one of them lacks is empty there.
func Join(tables ...*Table) *Table {
	if len(tables) == 1 {
		return tables[0]
	}
	all := &Table{}
	var names []string
	for _, t := range tables {
		names = append(names, t.Name)
		for _, c := range t.Columns {
			if !slices.Contains(all.Columns, c) {
				all.Columns = append(all.Columns, c)
			}
		}
	}
	all.Name = strings.Join(names, ", ")
	for _, t := range tables {
		for _, r := range t.Rows {
			var row Row
			for _, c := range all.Columns {
				if i := slices.Index(t.Columns, c); i >= 0 {
					row.cells, row.places = append(row.cells, r.cells[i]), append(row.places, r.places[i])
				} else {
					row.cells, row.places = append(row.cells, ""), append(row.places, t.Name)
				}
			}
			all.Rows = append(all.Rows, row)
		}
	}
	return all
}

// Has reports whether the table has a column.
func (t *Table) Has(column string) bool { return slices.Contains(t.Columns, column) }

// index finds a column.
func (t *Table) index(column string) (int, error) {
	if i := slices.Index(t.Columns, column); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf("%s: no column %q; there are %s", t.Name, column, strings.Join(t.Columns, ", "))
}

// Pick finds a column by its usual names: the first of them that there is, or
// the only one that begins with the first name and an underscore.
func (t *Table) Pick(usual ...string) (string, error) {
	for _, c := range usual {
		if t.Has(c) {
			return c, nil
		}
	}
	var some []string
	for _, c := range t.Columns {
		if strings.HasPrefix(c, usual[0]+"_") {
			some = append(some, c)
		}
	}
	switch len(some) {
	case 1:
		return some[0], nil
	case 0:
		return "", fmt.Errorf("%s: no column %q; there are %s", t.Name, usual[0], strings.Join(t.Columns, ", "))
	}
	return "", fmt.Errorf("%s: several columns can be meant: %s", t.Name, strings.Join(some, ", "))
}

// number reads a cell.
func (t *Table) number(r Row, column string) (float64, error) {
	i, err := t.index(column)
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseFloat(r.cells[i], 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0, fmt.Errorf("%s: column %s: %q is not a finite number", r.places[i], column, r.cells[i])
	}
	return x, nil
}

// Columns name the columns of what varies from table to table. Loss, Err and
// Weight may be empty: 0, 0 and 1 then. An empty Compute is 6 N D.
type Columns struct{ Loss, Err, Compute, Weight string }

// Runs translates the rows. N and D come from any two of the columns N, D, M
// and C.
func (t *Table) Runs(c Columns) ([]scaling.Run, error) {
	var runs []scaling.Run
	for i, row := range t.Rows {
		r, err := t.size(row)
		if err != nil {
			return nil, err
		}
		r.Name = fmt.Sprintf("%d", i+1)
		if n := slices.Index(t.Columns, "name"); n >= 0 {
			r.Name = row.cells[n]
		}
		for _, x := range []struct {
			column string
			to     *float64
		}{{c.Loss, &r.Loss}, {c.Err, &r.Err}, {c.Compute, &r.C}, {c.Weight, &r.Weight}} {
			if x.column == "" {
				continue
			}
			if *x.to, err = t.number(row, x.column); err != nil {
				return nil, err
			}
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// size finds N and D of a row.
func (t *Table) size(row Row) (scaling.Run, error) {
	var x [4]float64
	found := 0
	for i, c := range []string{"N", "D", "M", "C"} {
		if found == 2 || !t.Has(c) {
			continue
		}
		var err error
		if x[i], err = t.number(row, c); err != nil {
			return scaling.Run{}, err
		}
		if x[i] <= 0 {
			n, _ := t.index(c)
			return scaling.Run{}, fmt.Errorf("%s: column %s: %g is out of range, want a positive number", row.places[n], c, x[i])
		}
		found++
	}
	if found < 2 {
		return scaling.Run{}, fmt.Errorf("%s: want two of the columns N (parameters), D (tokens), M (D/N) and C (FLOPs); there are %s", t.Name, strings.Join(t.Columns, ", "))
	}
	return scaling.Size(x[0], x[1], x[2], x[3])
}

// Group is the part of a table with one value in a column.
type Group struct {
	Value string
	*Table
}

// Groups splits the table by a column, in order of appearance.
func (t *Table) Groups(column string) ([]Group, error) {
	c, err := t.index(column)
	if err != nil {
		return nil, err
	}
	var gs []Group
	for _, r := range t.Rows {
		i := slices.IndexFunc(gs, func(g Group) bool { return g.Value == r.cells[c] })
		if i < 0 {
			i = len(gs)
			gs = append(gs, Group{r.cells[c], &Table{Name: t.Name, Columns: t.Columns}})
		}
		gs[i].Rows = append(gs[i].Rows, r)
	}
	return gs, nil
}
