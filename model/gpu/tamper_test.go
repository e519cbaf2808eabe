package gpu

import "regexp"

// tamper changes instructions of a kernel's text; harmless are the templates
// where the change leaves what they compute.
type tamper struct {
	*regexp.Regexp
	to       string
	harmless []string
}

var tampers = []tamper{
	{regexp.MustCompile(`\badd\.f32`), "sub.f32", []string{"sum_rows"}}, // of partial sums that are subtracted in turn
	{regexp.MustCompile(`\bmul\.f32`), "add.f32", nil},
	{regexp.MustCompile(`(?m)^(\tfma\.rn\.f32 .*), %f\d+;`), "$1, 0f3F800000;", nil},
	{regexp.MustCompile(`(mma\.sync\S+ \{.*\}, \{.*\}), \{(%r\d+),(%r\d+)\}`), "$1, {$3,$2}", nil},
	{regexp.MustCompile(`(cvt\.rn\.bf16x2\.f32 %r\d+), (%f\d+), (%f\d+);`), "$1, $3, $2;", nil},
	{regexp.MustCompile(`(?m)^\tst\.global\S+ .*$`), "", nil},
}
