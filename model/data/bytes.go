package data

import "math"

// Bytes is the number of bytes of text that targets stand for: what they decode to,
// times what the split's text has for each byte that its tokens decode to, which is not 1
// where a tokenizer changes its text. Targets outside the vocabulary count nothing.
func (s *Split) Bytes(targets []int32) float64 {
	n := int64(0)
	for _, id := range targets {
		if id >= 0 && int(id) < len(s.lengths) {
			n += int64(s.lengths[id])
		}
	}
	if s.totals.DecodedBytes == 0 {
		return 0
	}
	return float64(n) * (float64(s.totals.TextBytes) / float64(s.totals.DecodedBytes))
}

// BitsPerByte is a loss in nats a token in bits a byte of the text that so many
// tokens stand for.
func BitsPerByte(loss float64, tokens int, bytes float64) float64 {
	return loss * float64(tokens) / bytes / math.Ln2
}
