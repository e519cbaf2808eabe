package specfile

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
)

//go:embed presets/*.yaml
var presets embed.FS

// Presets lists the names of the built-in configurations, sorted.
func Presets() []string {
	entries, err := presets.ReadDir("presets")
	if err != nil {
		panic(err) // embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(names) // without what follows the names
	return names
}

// shares are those of the dense network's weights that the paper's structured
// ones have, in per cent, as presets are called.
var shares = []string{"63", "32"}

// Shapes lists the presets of one size, gpt2s, gpt2m, gpt2l or gpt2xl: dense, and
// each structure at each share, those of the paper's table and further kinds.
func Shapes(size string) (names []string) {
	known := Presets()
	add := func(name string) {
		if slices.Contains(known, name) {
			names = append(names, name)
		}
	}
	for _, k := range spec.Kinds() {
		add(size + "-" + string(k))
		for _, s := range shares {
			add(size + "-" + string(k) + "-" + s)
		}
	}
	return names
}

// GPUShapes lists those of the size's shapes that GPUs have kernels for.
func GPUShapes(size string) []string {
	return slices.DeleteFunc(Shapes(size), func(name string) bool {
		return slices.ContainsFunc(spec.Kinds(), func(k spec.Kind) bool { return !k.OnGPU() && strings.Contains(name, "-"+string(k)+"-") })
	})
}

// alike asks for the presets whose names are nearest and at most a quarter off,
// up to three.
func alike(name string) string {
	names := Presets()
	far := map[string]int{}
	for _, p := range names {
		far[p] = distance(name, p)
	}
	slices.SortStableFunc(names, func(a, b string) int { return far[a] - far[b] })
	least := far[names[0]]
	names = slices.DeleteFunc(names[:3], func(p string) bool { return far[p] > least || 4*least > len(p) })
	if len(names) == 0 || len(name) > maxName {
		return ""
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}

// maxName bounds what is compared with the presets.
const maxName = 100

// distance is how many letters to insert, remove or replace make b of a.
func distance(a, b string) int {
	a = a[:min(len(a), maxName)]
	row := make([]int, len(b)+1) // of the distances of a's first i letters
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := corner
			if a[i] != b[j] {
				d = 1 + min(corner, row[j], row[j+1])
			}
			corner, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}

// Source reads the text of the preset of that name, or else of the file.
func Source(name string) ([]byte, error) {
	if src, err := presets.ReadFile("presets/" + name + ".yaml"); err == nil {
		return src, nil
	}
	src, err := ReadText(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no such file, nor a preset%s; sffn info --presets lists them", name, alike(name))
	}
	return src, err
}
