package data

import "math"

// Bytes is a stand-in.
func (s *Split) Bytes(targets []int32) float64 { return float64(len(targets)) }

// BitsPerByte is a loss in nats a token in bits a byte of the text that so many
// tokens stand for.
func BitsPerByte(loss float64, tokens int, bytes float64) float64 {
	return loss * float64(tokens) / bytes / math.Ln2
}
