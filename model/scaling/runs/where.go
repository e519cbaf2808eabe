package runs

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// condition is a column, a comparison and a value.
type condition struct {
	column, op, value string
}

var conditionSyntax = regexp.MustCompile(`^\s*([^=!<>]+?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*$`)

// Where keeps the rows that fit a filter: conditions such as dataset=rpj or
// M>=20, joined by commas where all have to hold, and such lists joined by the
// word or. Values compare as numbers where both are, else as text.
func (t *Table) Where(filter string) (*Table, error) {
	lists, err := t.parseWhere(filter)
	if err != nil {
		return nil, err
	}
	kept := &Table{Name: t.Name, Columns: t.Columns}
	for _, r := range t.Rows {
		for _, list := range lists {
			all := true
			for _, c := range list {
				ok, err := t.holds(r, c)
				if err != nil {
					return nil, err
				}
				all = all && ok
			}
			if all {
				kept.Rows = append(kept.Rows, r)
				break
			}
		}
	}
	if len(kept.Rows) == 0 {
		return nil, fmt.Errorf("%s: none of %d runs fits %q%s", t.Name, len(t.Rows), filter, t.values(lists))
	}
	return kept, nil
}

func (t *Table) parseWhere(filter string) ([][]condition, error) {
	var lists [][]condition
	for _, list := range strings.Split(filter, " or ") {
		var cs []condition
		for _, s := range strings.Split(list, ",") {
			m := conditionSyntax.FindStringSubmatch(s)
			if m == nil {
				return nil, fmt.Errorf("%q is no condition; want a column, one of = != < <= > >=, and a value, such as dataset=rpj or N<1e9", s)
			}
			if _, err := t.index(m[1]); err != nil {
				return nil, err
			}
			cs = append(cs, condition{m[1], m[2], m[3]})
		}
		lists = append(lists, cs)
	}
	return lists, nil
}

func (t *Table) holds(r Row, c condition) (bool, error) {
	i, err := t.index(c.column)
	if err != nil {
		return false, err
	}
	cell := r.cells[i]
	a, errA := strconv.ParseFloat(cell, 64)
	b, errB := strconv.ParseFloat(c.value, 64)
	order := 0
	switch {
	case errA == nil && errB == nil:
		order = compare(a, b)
	case c.op == "=" || c.op == "!=":
		order = strings.Compare(cell, c.value)
	case errB != nil:
		return false, fmt.Errorf("%s%s%s: %q is not a number; text compares by = and != only", c.column, c.op, c.value, c.value)
	default:
		return false, fmt.Errorf("%s: column %s: %q is not a number, and compares by = and != only", r.places[i], c.column, cell)
	}
	switch c.op {
	case "=":
		return order == 0, nil
	case "!=":
		return order != 0, nil
	case "<":
		return order < 0, nil
	case "<=":
		return order <= 0, nil
	case ">":
		return order > 0, nil
	default:
		return order >= 0, nil
	}
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// values lists what the columns of a filter hold, where it is little.
func (t *Table) values(lists [][]condition) string {
	var b strings.Builder
	var done []string
	for _, list := range lists {
		for _, c := range list {
			if slices.Contains(done, c.column) {
				continue
			}
			done = append(done, c.column)
			gs, err := t.Groups(c.column)
			if err != nil || len(gs) > 12 {
				continue
			}
			var vs []string
			for _, g := range gs {
				vs = append(vs, g.Value)
			}
			fmt.Fprintf(&b, "; %s is %s", c.column, strings.Join(vs, ", "))
		}
	}
	return b.String()
}
