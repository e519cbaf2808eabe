package trainlog

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/structuredffn/sffn/model/train"
)

// A terminal of no width has lines, as a log does; one of 80 columns has a bar.
func TestBarWidth(t *testing.T) {
	for _, tt := range []struct {
		width uint16
		want  string
	}{{0, "step 3/9  loss 2.5000"}, {10, "step 3/9  loss 2.5000"}, {80, "step 3/9 ["}} {
		shown := onPTY(t, tt.width, func(tty *os.File) {
			l := New(tty, 9, 0)
			var p train.Progress
			p.Step, p.Steps, p.Loss, p.ValLoss = 3, 9, 2.5, new(float64)
			l.Step(p)
			l.bar.Close()
		})
		if !strings.Contains(shown, tt.want) {
			t.Errorf("%d columns show %q, want %q", tt.width, shown, tt.want)
		}
	}
}

// onPTY returns what f writes to a terminal of so many columns.
func onPTY(t *testing.T, width uint16, f func(tty *os.File)) string {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	check(err)
	defer ptmx.Close()
	fd := int(ptmx.Fd())
	check(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	check(err)
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	check(err)
	defer tty.Close()
	check(unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width}))
	f(tty)
	const end = "the end"
	fmt.Fprintln(tty, end)
	var shown strings.Builder
	for b := make([]byte, 4096); !strings.Contains(shown.String(), end); {
		n, err := ptmx.Read(b)
		check(err)
		shown.Write(b[:n])
	}
	return shown.String()
}
