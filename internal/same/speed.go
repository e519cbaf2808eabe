package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// parts are what speed measures of sffn bench, on one thread: two threads of a
// shared machine can differ more than two commits.
var parts = [][]string{
	{"kernels", "--config", "gpt2s-dense,gpt2s-lowrank-32,gpt2s-blockshuffle-32", "--rows", "1,256"},
	{"ffn", "--config", "demo,gpt2s-dense,gpt2s-blockdense-32", "--rows", "256"},
	{"train", "--config", "demo", "--batch", "4", "--seq", "128"},
	{"train", "--config", "gpt2s-dense", "--batch", "1", "--seq", "128"},
	{"decode", "--config", "demo,gpt2s-dense", "--batch", "1,4", "--context", "128"},
}

// partsOf are the parts of that name, all of them where it is empty.
func partsOf(name string) (found [][]string, err error) {
	for _, p := range parts {
		if name == "" || p[0] == name {
			found = append(found, p)
		}
	}
	if found == nil {
		return nil, fmt.Errorf("unknown part %s; valid are kernels, ffn, train, decode", name)
	}
	return found, nil
}

// margin is the least difference that counts.
const margin = 0.02

// benchmark is a row of sffn bench: what was measured, and each round's time of
// both tools.
type benchmark struct {
	name  string
	times [2][]float64
}

// add adds the results of one tool's JSON in a round to rows.
func add(rows []*benchmark, part string, which int, text []byte) ([]*benchmark, error) {
	var out struct{ Results []map[string]any }
	if err := json.Unmarshal(text, &out); err != nil {
		return rows, err
	}
	for _, r := range out.Results {
		seconds, ok := r["seconds"].(float64)
		if !ok || seconds <= 0 {
			return rows, fmt.Errorf("a result of sffn bench %s has no seconds", part)
		}
		name := part
		for _, field := range []string{"model", "layer", "factor", "op", "rows", "batch", "seq"} {
			if v, ok := r[field]; ok {
				if _, isNumber := v.(float64); isNumber {
					name += " " + field
				}
				name += fmt.Sprintf(" %v", v)
			}
		}
		i := slices.IndexFunc(rows, func(b *benchmark) bool { return b.name == name })
		if i < 0 {
			i, rows = len(rows), append(rows, &benchmark{name: name})
		}
		rows[i].times[which] = append(rows[i].times[which], seconds)
	}
	return rows, nil
}

// verdict compares the two: ratio is that of the medians, low and high are the
// quartiles of the ratios of every time after to every time before. Beyond noise is
// what all but a twentieth of these agree on, and by the margin: with five rounds
// all but one of 25, which chance alone does to one row of 126.
func (b *benchmark) verdict() (ratio, low, high float64, word string) {
	var ratios []float64
	for _, before := range b.times[0] {
		for _, after := range b.times[1] {
			ratios = append(ratios, after/before)
		}
	}
	slices.Sort(ratios)
	n := len(ratios)
	switch {
	case ratios[n/20] > 1+margin:
		word = "SLOWER"
	case ratios[n-1-n/20] < 1-margin:
		word = "faster"
	}
	return median(b.times[1]) / median(b.times[0]), ratios[n/4], ratios[n-1-n/4], word
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// speed measures the parts and prints a row for each benchmark.
func speed(ctx context.Context, room string, parts [][]string, rounds int) error {
	trees := [2]string{"base", "head"}
	out := filepath.Join(room, "bench.json")
	const row = "%-92s %9s %7s  %s\n"
	fmt.Printf(row, "", "ms before", "ratio", "quartiles")
	slower := []string{}
	for _, part := range parts {
		var rows []*benchmark
		for round := range rounds {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, rounds, strings.Join(part, " "))
			for turn := range trees {
				which := turn ^ round&1 // A B B A: what drifts hits both
				args := append([]string{"bench"}, part...)
				if _, err := command(ctx, "", nil, filepath.Join(room, trees[which], "sffn"), append(args, "--threads", "1", "--repeats", "3", "--json", "--out", out)...); err != nil {
					return err
				}
				text, err := os.ReadFile(out)
				if err != nil {
					return err
				}
				if rows, err = add(rows, part[0], which, text); err != nil {
					return err
				}
			}
		}
		for _, b := range rows {
			if len(b.times[0]) != rounds || len(b.times[1]) != rounds {
				fmt.Printf("%-92s only one of the two has it\n", b.name)
				continue
			}
			ratio, low, high, word := b.verdict()
			fmt.Printf(row, b.name, fmt.Sprintf("%.3g", 1e3*median(b.times[0])), fmt.Sprintf("%.3f", ratio), fmt.Sprintf("%.3f .. %.3f  %s", low, high, word))
			if word == "SLOWER" {
				slower = append(slower, b.name)
			}
		}
	}
	if len(slower) > 0 {
		fmt.Printf("\n%d rows are slower beyond noise:\n  %s\n", len(slower), strings.Join(slower, "\n  "))
		return errDiffers
	}
	fmt.Println("\nnothing is slower beyond noise")
	return nil
}
