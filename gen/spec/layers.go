package spec

import (
	"fmt"
	"strconv"
	"strings"
)

// Layers names layers of a model, counted from 0, as a text that == compares:
// "0-3 5". Stretches are in rising order, and as long as they can be. [LayersOf] and
// [ParseLayers] write it.
type Layers string

// LayersOf names those of n layers that has says it of.
func LayersOf(n int, has func(i int) bool) Layers {
	var text []string
	for i := 0; i < n; i++ {
		if !has(i) {
			continue
		}
		lo := i
		for i+1 < n && has(i+1) {
			i++
		}
		text = append(text, stretch(lo, i))
	}
	return Layers(strings.Join(text, " "))
}

// ParseLayers reads a text that names layers, 0 to n-1, in any order, with blanks or
// commas between.
func ParseLayers(text string, n int) (Layers, error) {
	has := make([]bool, max(0, n))
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }) {
		lo, hi, ok := cutStretch(word)
		if !ok {
			return "", fmt.Errorf("%.100q names no layers, want numbers and stretches: 0-3 5", word)
		}
		if lo < 0 || lo > hi || hi >= n {
			return "", fmt.Errorf("%s is out of range, the model has layers 0 to %d", word, n-1)
		}
		for i := lo; i <= hi; i++ {
			has[i] = true
		}
	}
	return LayersOf(n, func(i int) bool { return has[i] }), nil
}

// Has reports whether layer i is among them.
func (l Layers) Has(i int) bool {
	for text := string(l); text != ""; {
		var word string
		word, text, _ = strings.Cut(text, " ")
		if lo, hi, ok := cutStretch(word); !ok || lo > i {
			break
		} else if i <= hi {
			return true
		}
	}
	return false
}

// stretch is the text of layers lo to hi.
func stretch(lo, hi int) string {
	if hi > lo {
		return strconv.Itoa(lo) + "-" + strconv.Itoa(hi)
	}
	return strconv.Itoa(lo)
}

func cutStretch(text string) (lo, hi int, ok bool) {
	first, last, many := strings.Cut(text, "-")
	if !many {
		last = first
	}
	lo, err := strconv.Atoi(first)
	hi, err2 := strconv.Atoi(last)
	return lo, hi, err == nil && err2 == nil && strconv.Itoa(lo) == first && strconv.Itoa(hi) == last
}
