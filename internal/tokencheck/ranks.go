package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/model/token/hf"
)

// readRanks reads tiktoken's form of a vocabulary: a line for each token, its
// bytes in base64 and its rank, in order.
func readRanks(r io.Reader) ([][]byte, error) {
	var tokens [][]byte
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		word, rank, _ := strings.Cut(lines.Text(), " ")
		token, err := base64.StdEncoding.DecodeString(word)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(tokens)+1, err)
		}
		if n, err := strconv.Atoi(rank); err != nil || n != len(tokens) {
			return nil, fmt.Errorf("line %d: rank %q, want %d", len(tokens)+1, rank, len(tokens))
		}
		tokens = append(tokens, token)
	}
	return tokens, lines.Err()
}

// merges returns the merge that makes each token behind the bytes: of the two
// parts that the merges before it make of its bytes.
func merges(tokens [][]byte) ([][2]int32, error) {
	order := hf.ByteOrder()
	var byID [256]int32
	for id, b := range order {
		if !bytes.Equal(tokens[id], []byte{b}) {
			return nil, fmt.Errorf("token %d is %q, want %q", id, tokens[id], b)
		}
		byID[b] = int32(id)
	}
	ids := make(map[string]int32, len(tokens))
	for i, token := range tokens {
		ids[string(token)] = int32(i)
	}
	var out [][2]int32
	for rank, token := range tokens[256:] {
		rank := int32(rank + 256)
		// Any two symbols whose text is a token of lower rank merge; the lowest first.
		word := make([]int32, len(token))
		for i, b := range token {
			word[i] = byID[b]
		}
		for len(word) > 2 {
			at, least := -1, rank
			for i := 0; i+1 < len(word); i++ {
				if id, ok := ids[string(tokens[word[i]])+string(tokens[word[i+1]])]; ok && id < least {
					at, least = i, id
				}
			}
			if at < 0 {
				return nil, fmt.Errorf("token %d, %q, is no merge of two before it", rank, token)
			}
			word[at] = least
			word = slices.Delete(word, at+1, at+2)
		}
		out = append(out, [2]int32{word[0], word[1]})
	}
	return out, nil
}
