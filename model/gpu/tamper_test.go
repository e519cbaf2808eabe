package gpu

import "regexp"

// tamper changes instructions of a kernel's text.
type tamper struct {
	*regexp.Regexp
	to string
}

var tampers = []tamper{
	{regexp.MustCompile(`\badd\.f32`), "sub.f32"},
	{regexp.MustCompile(`\bmul\.f32`), "add.f32"},
	{regexp.MustCompile(`(?m)^(\tfma\.rn\.f32 .*), %f\d+;`), "$1, 0f3F800000;"},
	{regexp.MustCompile(`(mma\.sync\S+ \{.*\}, \{.*\}), \{(%r\d+),(%r\d+)\}`), "$1, {$3,$2}"},
	{regexp.MustCompile(`(cvt\.rn\.bf16x2\.f32 %r\d+), (%f\d+), (%f\d+);`), "$1, $3, $2;"},
	{regexp.MustCompile(`(?m)^\tst\.global\S+ .*$`), ""},
}
