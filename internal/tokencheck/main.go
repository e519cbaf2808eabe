package main

import (
	"fmt"
	"os"

	"github.com/structuredffn/sffn/internal/gz"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tokencheck:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "merges":
		f, err := os.Open(args[1])
		if err != nil {
			return err
		}
		defer f.Close()
		tokens, err := readRanks(f)
		if err != nil {
			return err
		}
		pairs, err := merges(tokens)
		if err != nil {
			return err
		}
		var columns [4][]byte
		for _, p := range pairs {
			for i, b := range []int32{p[0], p[0] >> 8, p[1], p[1] >> 8} {
				columns[i] = append(columns[i], byte(b))
			}
		}
		var all []byte
		for _, c := range columns {
			all = append(all, c...)
		}
		return os.WriteFile(args[2], gz.Pack(all), 0o666)
	}
	return fmt.Errorf("usage")
}
