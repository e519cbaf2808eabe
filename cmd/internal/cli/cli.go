// Package cli holds what the commands share: exit codes and usage errors.
package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// UsageError is a mistake in how a command was called: exit code 2.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a usage error.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// Run executes the command and exits: 0 good, 1 failed, 2 bad usage.
func Run(cmd *cobra.Command) {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &UsageError{err} })
	if err := cmd.Execute(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
		os.Exit(Code(err))
	}
}

// Code is the exit code of an error.
func Code(err error) int {
	if u := (*UsageError)(nil); errors.As(err, &u) {
		return 2
	}
	if err != nil {
		return 1
	}
	return 0
}

// NoArgs rejects positional arguments as bad usage.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("unexpected argument %q; see %s --help", args[0], cmd.CommandPath())
	}
	return nil
}
