package tool

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/specfile"
)

// The commands of docs/scaling.md print what the page shows. A command is an
// indented line that starts with $; its output follows, up to a line that is
// not indented.
func TestScalingPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, from := range map[string]string{"testbed.csv": testbed, "runs.csv": "../../../docs/scaling-runs.csv",
		"experiments.csv": "../../../experiments/paper/runs.csv"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	commands := 0
	lines := strings.Split(string(page), "\n")
	for i := 0; i < len(lines); i++ {
		command, ok := strings.CutPrefix(lines[i], "    $ sffn ")
		if !ok {
			continue
		}
		for strings.HasSuffix(command, "\\") {
			i++
			command = strings.TrimSuffix(command, "\\") + strings.TrimSpace(lines[i])
		}
		var want []string
		for i+1 < len(lines) && !strings.HasPrefix(lines[i+1], "    $") && (lines[i+1] == "" || strings.HasPrefix(lines[i+1], "    ")) {
			i++
			want = append(want, strings.TrimPrefix(lines[i], "    "))
		}
		args, to := shell(command)
		got := runCommand(t, args)
		if to != "" {
			if err := os.WriteFile(to, []byte(got), 0o666); err != nil {
				t.Fatal(err)
			}
			got = ""
		}
		if trim(got) != trim(strings.Join(want, "\n")) {
			t.Errorf("$ sffn %s\nprints\n%s\nthe page has\n%s", command, got, strings.Join(want, "\n"))
		}
		commands++
	}
	if commands < 8 {
		t.Errorf("%d commands on the page", commands)
	}
	for _, name := range []string{"loss.png", "error.svg", "kinds.png", "slopes.png"} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}

// The demo shows what its model can do: its texts stay within the positions that
// are trained.
func TestDemo(t *testing.T) {
	makefile, err := os.ReadFile("../../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	config, err := specfile.Load("demo")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(makefile), "bin/sffn generate ")
	command, _, _ := strings.Cut(rest, "\n")
	args, _ := shell(command)
	flags := newGenerate().Flags()
	if err := flags.Parse(args); err != nil || !found {
		t.Fatalf("generate %s: %v", command, err)
	}
	prompts, _ := flags.GetStringArray("prompt")
	tokens, _ := flags.GetInt("tokens")
	if len(prompts) == 0 {
		t.Error("the demo continues no text")
	}
	for _, p := range prompts {
		if n := len(p) + tokens - 1; n > config.Train.Seq {
			t.Errorf("%q and %d tokens take %d positions, the demo trains %d", p, tokens, n, config.Train.Seq)
		}
	}
}

// shell splits a command at blanks outside of single quotes; to is the file
// that it is redirected to.
func shell(command string) (args []string, to string) {
	command, to, _ = strings.Cut(command, " > ")
	for i, part := range strings.Split(command, "'") {
		if i%2 == 1 {
			args = append(args, part)
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	return args, strings.TrimSpace(to)
}

func runCommand(t *testing.T, args []string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	if err := cmd.Execute(); err != nil {
		t.Errorf("sffn %s: %v", strings.Join(args, " "), err)
	}
	return out.String()
}

// trim drops blanks at the ends of lines and of the text.
func trim(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}
