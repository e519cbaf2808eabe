package table

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// Text is the PTX of one kernel, and what its file has outside of kernels.
type Text struct{ Head, Body string }

var entry = regexp.MustCompile(`(?m)^\.visible \.entry (\w+)\(`)

// Split takes a file's PTX apart, so that a device compiles only what it needs.
func Split(src string) map[string]Text {
	var head strings.Builder
	bodies := map[string]string{}
	at := 0
	for _, m := range entry.FindAllStringSubmatchIndex(src, -1) {
		if m[0] < at { // in the body of another
			continue
		}
		n := strings.Index(src[m[0]:], "\n}\n")
		if n < 0 {
			n = len(src) - m[0] - len("\n}\n")
		}
		end := max(m[1], m[0]+n+len("\n}\n"))
		head.WriteString(src[at:m[0]])
		at = end
		bodies[src[m[2]:m[3]]] = src[m[0]:at]
	}
	head.WriteString(src[at:])
	ts := map[string]Text{}
	for name, b := range bodies {
		ts[name] = Text{head.String(), b}
	}
	return ts
}

// Sum is the hash of a row, but for what Hash says, with its kernel's text.
func (k Kernel) Sum(t Text) string {
	k.Hash = ""
	row, err := json.Marshal(k)
	if err != nil {
		panic(err) // it is made of numbers and words
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%q %q\n", row, t.Head, t.Body)
	return hex.EncodeToString(h.Sum(nil))
}

var (
	parameter = regexp.MustCompile(`^\.param \.(\w+) \w+,?$`)
	ptxTypes  = map[string]bool{"u64 array": true, "u32 uint32": true, "f32 float32": true}
)

// Check is an error where a row is not that of a kernel's text: it was made for
// another one, or has parameters or threads that the text has not.
func (k Kernel) Check(t Text) error {
	if k.Hash != k.Sum(t) {
		return fmt.Errorf("kernel %s: its row is stale: it was made for another text, or changed by hand", k.Name)
	}
	signature, rest, _ := strings.Cut(t.Body, ")")
	lines := strings.Split(signature, "\n")
	given := 0
	for _, line := range lines[1:] {
		m := parameter.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if given < len(k.Params) {
			p := k.Params[given]
			want := string(p.Type)
			if p.Type.Array() {
				want = "array"
			}
			if !ptxTypes[m[1]+" "+want] {
				return fmt.Errorf("kernel %s: its row has %s as %s, its text as .%s", k.Name, p.Name, p.Type, m[1])
			}
		}
		given++
	}
	if given != len(k.Params) {
		return fmt.Errorf("kernel %s: its row has %d parameters, its text %d", k.Name, len(k.Params), given)
	}
	head, _, _ := strings.Cut(rest, "{")
	var threads, y, z int
	for line := range strings.Lines(head) {
		if n, _ := fmt.Sscanf(line, ".maxntid %d, %d, %d", &threads, &y, &z); n > 0 && (threads != k.Threads || y != 1 || z != 1) {
			return fmt.Errorf("kernel %s: its row has %d threads, its text %d x %d x %d", k.Name, k.Threads, threads, y, z)
		}
	}
	return nil
}
