package gpucheck

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

//go:embed torch.py
var torchScript string

// noPython says that nobody asks for torch.
const noPython = "none"

// torchLimit bounds the time until Python's next answer, tests lower it: the first one comes
// when it has loaded torch.
var torchLimit = time.Minute

// torch times torch.matmul of the shapes of all products, where there is a
// Python with torch and the device. What it lacks is a note; the error says that
// the check is cut short.
func (c *check) torch() error {
	if c.Python == noPython || len(c.report.Products) == 0 {
		return nil
	}
	if err := c.runTorch(); err != nil {
		if err := c.Err(); err != nil {
			return err
		}
		c.note("torch.matmul was not timed: %v", err)
	}
	return nil
}

func (c *check) runTorch() error {
	python := cmp.Or(c.Python, "python3")
	if _, err := exec.LookPath(python); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(c)
	defer stop(nil)
	late := time.AfterFunc(torchLimit, func() { stop(fmt.Errorf("%s: no answer in %v", python, torchLimit)) })
	defer late.Stop()
	cmd := exec.CommandContext(ctx, python, "-c", torchScript)
	cmd.WaitDelay = time.Second // for processes of its own that hold its output
	// The driver's order of devices need not be that of torch.
	cmd.Env = append(os.Environ(), "CUDA_VISIBLE_DEVICES="+c.d.UUID)
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
	// What is killed may leave children that hold its output.
	context.AfterFunc(ctx, func() { out.Close() })
	if err := cmd.Start(); err != nil {
		return err
	}
	err = c.talkTorch(in, bufio.NewReader(out), func() { late.Reset(torchLimit) })
	in.Close()
	e := cmd.Wait()
	switch {
	case err == nil:
		return nil
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case e != nil:
		lines := strings.Split(strings.TrimSpace(words.String()), "\n")
		return fmt.Errorf("%s: %s (%w)", python, lines[len(lines)-1], e)
	}
	return err
}

// talkTorch asks for one shape after the other, and calls answered in between.
func (c *check) talkTorch(in io.Writer, out *bufio.Reader, answered func()) error {
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
	answered()
	known := map[shape]float64{}
	for i := range c.report.Products {
		if err := c.tick(); err != nil {
			return err
		}
		p := &c.report.Products[i]
		s := shape{Blocks: p.Blocks, M: p.M, N: p.N, K: p.K, Transposed: p.Pass == string(table.BackwardWeight), DType: p.Precision}
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
			answered()
			us, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
			if err != nil {
				return err
			}
			if !(us > 0) || math.IsInf(us, 0) {
				return fmt.Errorf("it says that %s takes %v us", data, us)
			}
			known[s] = us
		}
		p.Torch = known[s]
		p.Ratio = p.Torch / p.Time.Median
	}
	return nil
}
