package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// command runs a program in dir, the current folder where it is empty, and
// returns what it printed.
func command(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s %s: %w\n%s", strings.Join(env, " "), name, strings.Join(args, " "), err, &stderr)
	}
	return out, nil
}

// flagsOfGo make builds of a package in two folders one: the second comes from the
// cache.
var flagsOfGo = []string{"GOFLAGS=-trimpath -buildvcs=false"}

// build builds the tool of a commit, or of the working tree where the commit is
// empty, as sffn in the folder out. With configs it builds sffn-specialised, too,
// which has the kernels that this commit generates for them.
func build(ctx context.Context, commit, out string, configs []string) error {
	source, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	if commit != "" {
		// Not below build: tools that walk the module would find it.
		if source, err = os.MkdirTemp("", "sffn-same-"); err != nil {
			return err
		}
		defer os.RemoveAll(source)
		archive := filepath.Join(source, "source.tar")
		if _, err := command(ctx, "", nil, "git", "archive", "--output", archive, commit); err != nil {
			return err
		}
		if _, err := command(ctx, source, nil, "tar", "-xf", archive); err != nil {
			return err
		}
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	sffn := filepath.Join(out, "sffn")
	if _, err := command(ctx, source, flagsOfGo, "go", "build", "-o", sffn, "./cmd/sffn"); err != nil || len(configs) == 0 {
		return err
	}
	_, err = command(ctx, "", flagsOfGo, sffn, "build", "--source", source, "--config", strings.Join(configs, ","), "--out", sffn+"-specialised")
	return err
}

// revision is the hash of a commit.
func revision(ctx context.Context, commit string) (string, error) {
	out, err := command(ctx, "", nil, "git", "rev-parse", "--verify", "--short", commit+"^{commit}")
	return strings.TrimSpace(string(out)), err
}
