// Package cli holds what the commands share: exit codes, usage errors, help
// and completion.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/ram"
)

// UsageError is a mistake in how a command was called: exit code 2.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a usage error.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// Require reports the first of the flags that was left out.
func Require(cmd *cobra.Command, names ...string) error {
	for _, n := range names {
		if f := cmd.Flags().Lookup(n); !f.Changed {
			return Usagef("--%s is missing: %s", n, f.Usage)
		}
	}
	return nil
}

// Sizes checks a flag of sizes, from 1 up.
func Sizes(flag string, most int, values ...int) error {
	for _, v := range values {
		if v < 1 || v > most {
			return Usagef("--%s: %d is out of range, want 1 to %d", flag, v, most)
		}
	}
	return nil
}

// Interrupted is how a command ends that a signal cut short.
type Interrupted struct {
	Signal syscall.Signal
	// Text says what became of the work.
	Text string
}

func (e *Interrupted) Error() string { return e.Text }

// Interrupts returns a context that the first SIGINT, SIGTERM or SIGHUP ends:
// CutBy tells which it was. A second one ends the process at once. A SIGHUP that is ignored, as
// under nohup, stays so. stop gives the signals back.
func Interrupts() (ctx context.Context, stop func()) {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	came := make(chan os.Signal, 2)
	signal.Notify(came, signals...)
	go func() {
		s := (<-came).(syscall.Signal)
		cancel(&Interrupted{Signal: s})
		s = (<-came).(syscall.Signal)
		os.Exit(signalled + int(s))
	}()
	return ctx, func() {
		signal.Stop(came)
		cancel(nil)
	}
}

// CutBy is the end of a command whose context of Interrupts is done; nil where it
// is not.
func CutBy(ctx context.Context, format string, args ...any) error {
	if e := (*Interrupted)(nil); errors.As(context.Cause(ctx), &e) {
		return &Interrupted{e.Signal, fmt.Sprintf(format, args...)}
	}
	return nil
}

// signalled is added to the number of a signal to give the exit code, as shells do.
const signalled = 128

// Quiet is an error of which another process of the same command has spoken.
type Quiet struct{ Err error }

func (e *Quiet) Error() string { return e.Err.Error() }
func (e *Quiet) Unwrap() error { return e.Err }

// Exit ends the process.
var Exit = os.Exit

// Run executes the command and exits: 0 good, 1 failed, 2 bad usage, 128 and the
// signal's number interrupted.
func Run(cmd *cobra.Command) {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetFlagErrorFunc(flagError)
	cmd.SetHelpCommand(newHelp())
	cmd.SetVersionTemplate("{{.DisplayName}} {{.Version}}\n")
	out := &output{Writer: os.Stdout}
	cmd.SetOut(out)
	ran, err := execute(cmd)
	if err == nil {
		err = out.err
	}
	if err == nil || errors.As(err, new(*Quiet)) {
		Exit(Code(err))
	}
	if ran == nil { // it has panicked
		ran = cmd
	}
	Report(ran, err)
	Exit(Code(err))
}

// Report says on standard error what is wrong with the command that ran.
func Report(ran *cobra.Command, err error) {
	hint := ""
	if Code(err) == 2 {
		hint = fmt.Sprintf("; see %s --help", ran.CommandPath())
	}
	fmt.Fprintf(os.Stderr, "%s: %v%s\n", ran.Root().Name(), err, hint)
}

func execute(cmd *cobra.Command) (ran *cobra.Command, err error) {
	defer ram.Refused(&err)
	return cmd.ExecuteC()
}

// output remembers the first error of a writer, so that no command has to look
// at each of its own.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// Code is the exit code of an error.
func Code(err error) int {
	if u := (*UsageError)(nil); errors.As(err, &u) {
		return 2
	}
	if s := (*Interrupted)(nil); errors.As(err, &s) {
		return signalled + int(s.Signal)
	}
	if err != nil {
		return 1
	}
	return 0
}

// flagError makes a usage error of a flag that cannot be read: one that no
// command has may be that of a command whose name is wrong.
func flagError(cmd *cobra.Command, err error) error {
	if err := NoArgs(cmd, cmd.Flags().Args()); cmd.HasSubCommands() && err != nil {
		return err
	}
	return &UsageError{err}
}

// NoArgs rejects positional arguments as bad usage.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		return Usagef("unexpected argument %q", args[0])
	}
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return Usagef("unknown command %q for %s; did you mean %s?", args[0], cmd.CommandPath(), strings.Join(like, " or "))
	}
	return Usagef("unknown command %q for %s", args[0], cmd.CommandPath())
}

// newHelp is cobra's help command, for which a command that does not exist is
// bad usage.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			of, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []cobra.Completion
			for _, c := range of.Commands() {
				if c.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := cmd.Root().Find(args)
			if err == nil {
				err = NoArgs(of, rest)
			}
			if err != nil {
				return err
			}
			of.InitDefaultHelpFlag()
			of.InitDefaultVersionFlag()
			return of.Help()
		},
	}
}

// self is the module that the programs come from, which may not be that of the
// main package.
const self = "github.com/structuredffn/sffn"

// Version is what --version prints: the module's version, or else the revision
// of the source where that is known, and how the program was built.
func Version(revision string) string {
	version := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == self && m.Replace == nil && m.Version != "" {
				version = m.Version
			}
		}
	}
	if version == "(devel)" && revision != "" {
		version = revision
	}
	return fmt.Sprintf("%s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Complete has the shell complete a flag: with one of values, and with further
// ones after a comma where the flag takes several.
func Complete[T ~string](cmd *cobra.Command, flag string, values ...T) {
	var words []string
	for _, v := range values {
		words = append(words, string(v))
	}
	complete(cmd, flag, cobra.ShellCompDirectiveNoFileComp, func() []string { return words })
}

// CompleteConfig completes a flag that takes presets and YAML files.
func CompleteConfig(cmd *cobra.Command, flag string) {
	complete(cmd, flag, cobra.ShellCompDirectiveDefault, specfile.Presets)
}

func complete(cmd *cobra.Command, flag string, directive cobra.ShellCompDirective, values func() []string) {
	several := strings.HasSuffix(cmd.Flags().Lookup(flag).Value.Type(), "Slice")
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		done := ""
		if several {
			done = typed[:strings.LastIndexByte(typed, ',')+1]
		}
		var all []cobra.Completion
		for _, v := range values() {
			if strings.HasPrefix(v, typed[len(done):]) {
				all = append(all, done+v)
			}
		}
		return all, directive
	})
	if err != nil {
		panic(err) // no such flag, or twice
	}
}
