package tool

import (
	"bytes"
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/config"
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

// pages are the repository's texts by path from its root, README.md first.
func pages(t *testing.T) (paths []string, texts map[string]string) {
	t.Helper()
	docs, err := filepath.Glob("../../../docs/*.md")
	if err != nil || len(docs) < 5 {
		t.Fatalf("%d pages in docs: %v", len(docs), err)
	}
	texts = map[string]string{}
	for _, file := range append([]string{"../../../README.md", "../../../experiments/paper/README.md"}, docs...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path, err := filepath.Rel("../../..", file)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, filepath.ToSlash(path))
		texts[paths[len(paths)-1]] = string(text)
	}
	return paths, texts
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// Links between pages lead to files, and to headings where they name one. README
// leads to every page, and fits a newcomer's patience.
func TestPagesLinks(t *testing.T) {
	paths, texts := pages(t)
	fromReadme := map[string]bool{"README.md": true}
	for _, page := range paths {
		for _, m := range link.FindAllStringSubmatch(texts[page], -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, heading, _ := strings.Cut(m[1], "#")
			to := path.Join(path.Dir(page), file)
			if file == "" {
				to = page
			}
			text, err := os.ReadFile(filepath.Join("../../..", filepath.FromSlash(to)))
			if err != nil || !filepath.IsLocal(filepath.FromSlash(to)) {
				t.Errorf("%s: the link %s leads to no file of the repository", page, m[1])
			} else if heading != "" && !slices.Contains(headings(string(text)), heading) {
				t.Errorf("%s: the link %s leads to no heading", page, m[1])
			}
			if page == "README.md" {
				fromReadme[to] = true
			}
		}
	}
	for _, page := range paths {
		if !fromReadme[page] {
			t.Errorf("README.md has no link to %s", page)
		}
	}
	if n := strings.Count(texts["README.md"], "\n"); n > 120 {
		t.Errorf("README.md has %d lines, want at most 120", n)
	}
}

// headings are the names by which links reach a page's headings.
func headings(text string) []string {
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// The commands on the pages exist, and so do their flags.
func TestPagesCommands(t *testing.T) {
	shown := regexp.MustCompile(`(?m)^    (?:\$ )?(?:SFFN_ISA=\w+ |mpirun .*?)?(?:bin/)?sffn (.*)$`)
	paths, texts := pages(t)
	commands := 0
	for _, page := range paths {
		text := strings.ReplaceAll(texts[page], "\\\n", "")
		for _, m := range shown.FindAllStringSubmatch(text, -1) {
			line, _, _ := strings.Cut(m[1], " #")
			args, _ := shell(line)
			cmd, rest, err := newCommand().Find(args)
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err == nil && cmd.HasSubCommands() {
				err = errors.New("which of its commands?")
			}
			if err != nil {
				t.Errorf("%s: sffn %s: %v", page, line, err)
			}
			commands++
		}
	}
	if commands < 40 {
		t.Errorf("only %d commands on the pages", commands)
	}
}

// The demo shows what its model can do: its texts stay within the positions that
// are trained.
func TestDemo(t *testing.T) {
	makefile, err := os.ReadFile("../../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	config, err := config.Load("demo")
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
