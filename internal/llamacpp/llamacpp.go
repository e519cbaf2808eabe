// Package llamacpp asks llama.cpp what it makes of a GGUF file, through the program
// probe.cpp, which make llamacpp builds beside llama.cpp in build/llamacpp.
package llamacpp

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// Probe is a program that has a file open.
type Probe struct {
	t      testing.TB
	in     io.WriteCloser
	out    *bufio.Reader
	errors *bytes.Buffer
}

// Start opens a GGUF file. The test is skipped where llama.cpp is not built.
func Start(t testing.TB, file string) *Probe {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	program := filepath.Join(filepath.Dir(here), "..", "..", "build", "llamacpp", "probe")
	if _, err := os.Stat(filepath.Dir(program)); err != nil {
		t.Skip("skipped: no build/llamacpp (make llamacpp)")
	}
	p := &Probe{t: t, errors: &bytes.Buffer{}}
	cmd := exec.Command(program, file)
	cmd.Stderr = p.errors
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("llama.cpp: %v: %s", err, p.errors)
		}
	})
	return p
}

// ask sends a line, and returns one.
func (p *Probe) ask(format string, args ...any) string {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatalf("llama.cpp: %v: %s", err, p.errors)
	}
	return p.line()
}

func (p *Probe) line() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("llama.cpp: %v: %s", err, p.errors)
	}
	return strings.TrimSuffix(line, "\n")
}

func spaced(ids []int32) string { return strings.Trim(fmt.Sprint(ids), "[]") }

// Logits are those behind each id.
func (p *Probe) Logits(ids []int32) (all []float64) {
	p.t.Helper()
	line := p.ask("logits %s", spaced(ids))
	for i := range ids {
		if i > 0 {
			line = p.line()
		}
		for _, word := range strings.Fields(line) {
			v, err := strconv.ParseFloat(word, 32)
			if err != nil {
				p.t.Fatal(err)
			}
			all = append(all, v)
		}
	}
	return all
}

// Encode gives the ids of a text, with what the file puts around it. In ordinary text
// nothing is a special token.
func (p *Probe) Encode(text string, ordinary bool) (ids []int32) {
	p.t.Helper()
	command := "encode"
	if ordinary {
		command = "ordinary"
	}
	for _, word := range strings.Fields(p.ask("%s %x", command, text)) {
		id, err := strconv.ParseInt(word, 10, 32)
		if err != nil {
			p.t.Fatal(err)
		}
		ids = append(ids, int32(id))
	}
	return ids
}

// Decode gives the text of ids, without special tokens.
func (p *Probe) Decode(ids []int32) string {
	p.t.Helper()
	return p.text("decode " + spaced(ids))
}

// Template is the chat template.
func (p *Probe) Template() string {
	p.t.Helper()
	return p.text("template")
}

func (p *Probe) text(command string) string {
	p.t.Helper()
	text, err := hex.DecodeString(p.ask("%s", command))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}
