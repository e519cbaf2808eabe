package gpucheck

import (
	"bufio"
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/gen/plan"
)

//go:embed torch.py
var torchScript string

// noPython says that nobody asks for torch.
const noPython = "none"

// torch times torch.matmul of the shapes of all products, where there is a
// Python with torch and the device. What it lacks is a note.
func (c *check) torch() {
	if c.Python == noPython || len(c.report.Products) == 0 {
		return
	}
	if err := c.runTorch(); err != nil {
		c.note("torch.matmul was not timed: %v", err)
	}
}

func (c *check) runTorch() error {
	python := cmp.Or(c.Python, "python3")
	if _, err := exec.LookPath(python); err != nil {
		return err
	}
	cmd := exec.CommandContext(c, python, "-c", torchScript)
	var words bytes.Buffer
	cmd.Stderr = &words
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = c.talkTorch(in, bufio.NewReader(out))
	in.Close()
	io.Copy(io.Discard, out)
	if e := cmd.Wait(); e != nil && err != nil {
		lines := strings.Split(strings.TrimSpace(words.String()), "\n")
		err = fmt.Errorf("%s: %s (%w)", python, lines[len(lines)-1], e)
	}
	return err
}

// talkTorch asks for one shape after the other.
func (c *check) talkTorch(in io.Writer, out *bufio.Reader) error {
	line, err := out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("it ended: %w", err)
	}
	var hello struct{ Torch, Device string }
	if err := json.Unmarshal([]byte(line), &hello); err != nil {
		return err
	}
	c.note("torch %s on %s", hello.Torch, hello.Device)
	type shape struct {
		Blocks     int    `json:"blocks"`
		M          int    `json:"m"`
		N          int    `json:"n"`
		K          int    `json:"k"`
		Transposed bool   `json:"transposed"`
		DType      string `json:"dtype"`
		Buffers    int    `json:"buffers"`
		Launches   int    `json:"launches"`
		Repeats    int    `json:"repeats"`
	}
	known := map[shape]float64{}
	for i := range c.report.Products {
		if err := c.tick(); err != nil {
			return err
		}
		p := &c.report.Products[i]
		s := shape{Blocks: p.Blocks, M: p.M, N: p.N, K: p.K, Transposed: p.Pass == string(plan.BackwardWeight), DType: p.Precision}
		if known[s] == 0 {
			ask := s
			ask.Buffers, ask.Launches, ask.Repeats = p.Time.Buffers, p.Time.Launches, max(1, c.Repeats)
			data, err := json.Marshal(ask)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(in, "%s\n", data); err != nil {
				return err
			}
			if line, err = out.ReadString('\n'); err != nil {
				return fmt.Errorf("it ended at %s: %w", data, err)
			}
			if known[s], err = strconv.ParseFloat(strings.TrimSpace(line), 64); err != nil {
				return err
			}
		}
		p.Torch = known[s]
		p.Ratio = p.Torch / p.Time.Median
	}
	return nil
}
