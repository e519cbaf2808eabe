package tool

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/golden"
	"github.com/structuredffn/sffn/internal/term"
)

func newVerify() *cobra.Command {
	var m machine
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check this machine's kernels against golden vectors",
		Long: `Check this machine's kernels against golden vectors, those in the program or a
folder of others, with the layers, models and loop that train and decode. Every
value must be within its tensor's own absolute tolerance; "worst" is the largest
share of it.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cases := golden.Cases()
			if cmd.Flags().Changed("golden") {
				if dir == "" {
					return cli.Usagef("--golden needs the name of a folder")
				}
				cases = os.DirFS(dir)
			}
			if err := m.open(); err != nil {
				return err
			}
			defer m.close()
			w := cmd.OutOrStdout()
			out, err := golden.Verify(cases, m.Options, func(r golden.Result) {
				if !asJSON {
					fmt.Fprintln(w, r)
				}
			})
			if err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
			if asJSON {
				err = term.JSON(w, out)
			} else {
				_, err = fmt.Fprintf(w, "%s: %d passed, %d failed, %d skipped\n", out.ISA, out.Passed, out.Failed, out.Skipped)
			}
			if err == nil && out.Failed > 0 {
				err = fmt.Errorf("%d of %d cases failed", out.Failed, len(out.Cases))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "golden", "", "folder of golden vectors, manifest.json and safetensors files (default: those in the program)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	m.flag(cmd)
	return cmd
}
