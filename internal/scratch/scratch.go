// Package scratch makes modules outside this one that use it, with the same
// versions of everything else, and runs the go command in them.
package scratch

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/mod/modfile"
)

// Self is the path of this module.
const Self = "github.com/structuredffn/sffn"

// Write puts a module of the given name into dir. It takes this module from
// the folder source, its root, through a replace.
func Write(dir, name, source string) error {
	file := filepath.Join(source, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	mod, err := modfile.Parse(file, text, nil)
	if err != nil {
		return err
	}
	if mod.Module == nil || mod.Module.Mod.Path != Self {
		return fmt.Errorf("%s is not the module %s", file, Self)
	}
	sum, err := os.ReadFile(filepath.Join(source, "go.sum"))
	if err != nil {
		return err
	}
	if err := mod.AddModuleStmt(name); err != nil {
		return err
	}
	if err := mod.AddRequire(Self, "v0.0.0"); err != nil {
		return err
	}
	if err := mod.AddReplace(Self, "", source, ""); err != nil {
		return err
	}
	if text, err = mod.Format(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), text, 0o666); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o666)
}

// Go is the go command with its arguments, to be run in the module in dir.
func Go(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -mod=mod", "GOWORK=off")
	return cmd
}
