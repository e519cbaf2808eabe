package disk

import (
	"fmt"
	"io"
)

// ReadText reads a file of at most so many bytes, whatever size it claims to have.
// what says in the error what so long a file would be too long for: " for a fit".
func ReadText(name string, most int, what string) ([]byte, error) {
	f, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > most {
		return nil, fmt.Errorf("%s: too long%s, want at most %d bytes", name, what, most)
	}
	return text, nil
}

// Place is the line and column of a byte of a text, as errors have them.
func Place(text []byte, at int) string {
	line, column := 1, 1
	for _, b := range text[:at] {
		if column++; b == '\n' {
			line, column = line+1, 1
		}
	}
	return fmt.Sprintf("%d:%d", line, column)
}
