package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// program is a built sffn, with its own data: formats of data may differ.
type program struct{ sffn, data string }

// job is what a tool is to compute.
type job struct {
	config string // YAML file
	steps  int
	// last saves the last step only, where every step is saved otherwise.
	last bool
	isa  kernel.ISA
}

// Files of a result.
const runFolder = "run"

var logitsFiles = []string{"logits.safetensors", "cached.safetensors"}

// decodings are the ways to continue texts.
var decodings = []struct {
	file  string
	flags []string
}{
	{"greedy.json", nil},
	{"sampled.json", sampled},
	{"merged-greedy.json", []string{"--merge", "on"}},
	{"merged-sampled.json", append([]string{"--merge", "on"}, sampled...)},
}

var sampled = []string{"--temperature", "0.9", "--top-p", "0.95", "--top-k", "60", "--seed", "7"}

// results trains, decodes and writes logits: all of it into the folder dir.
func (t program) results(ctx context.Context, j job, dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	run := in(runFolder)
	sffn := func(args ...string) ([]byte, error) {
		return command(ctx, "", []string{kernel.EnvISA + "=" + string(j.isa)}, t.sffn, append(args, "--threads", "2")...)
	}
	saveEvery := "1ns"
	if j.last {
		saveEvery = "0"
	}
	if _, err := sffn("train", "--config", j.config, "--data", t.data, "--out", run, "--steps", strconv.Itoa(j.steps),
		"--save-every", saveEvery, "--keep", "1000"); err != nil {
		return err
	}
	for _, d := range decodings {
		out, err := sffn(append([]string{"generate", "--model", run, "--json", "--tokens", "48", "--prompt", "the ", "--prompt", "of rows and columns, "}, d.flags...)...)
		if err != nil {
			return err
		}
		if err := os.WriteFile(in(d.file), out, 0o666); err != nil {
			return err
		}
	}
	var ids []int
	for i := range 99 {
		ids = append(ids, (i*i+7*i)%251)
	}
	text, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	if err := os.WriteFile(in("ids.json"), text, 0o666); err != nil {
		return err
	}
	for i, name := range logitsFiles {
		args := []string{"logits", "--model", run, "--ids", in("ids.json"), "--out", in(name)}
		if i > 0 {
			args = append(args, "--cached")
		}
		if _, err := sffn(args...); err != nil {
			return err
		}
	}
	return nil
}

// words are what the corpus is made of.
var words = strings.Fields(`the a of and to in is as by for with that rows columns blocks of ranks sums weights
	tokens layer layers kernel matrix vector product chain factor shuffle dense structured low block guide step loss
	gradient moment norm head query key value cache reads writes adds takes gives holds, once. twice. never; always: 0 1 16 128`)

// writeText writes the corpus, which is always the same.
func writeText(name string) error {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for b.Len() < 100_000 {
		for range 3 + r.IntN(12) {
			b.WriteString(words[min(r.IntN(len(words)), r.IntN(len(words)))])
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%c\n", '!'+rune(r.IntN(90)))
	}
	return os.WriteFile(name, []byte(b.String()), 0o666)
}

// isas lists the instruction sets that a tool knows and the machine has. The
// earlier commit's are compared: one that the later commit has lost is an error there.
func (t program) isas(ctx context.Context, config string) ([]kernel.ISA, error) {
	text, err := command(ctx, "", nil, t.sffn, "info", "--config", config, "--json")
	if err != nil {
		return nil, err
	}
	var info struct {
		Available []kernel.ISA `json:"isa_available"`
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return nil, fmt.Errorf("%s info: %w", t.sffn, err)
	}
	if len(info.Available) == 0 {
		return nil, fmt.Errorf("%s info names no instruction sets", t.sffn)
	}
	return info.Available, nil
}

// prepare makes a tool's data of a text.
func (t program) prepare(ctx context.Context, text string) error {
	_, err := command(ctx, "", nil, t.sffn, "prepare", "--text", text, "--out", t.data)
	return err
}
