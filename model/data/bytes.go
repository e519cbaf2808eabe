package data

// Bytes is a stand-in.
func (s *Split) Bytes(targets []int32) float64 { return float64(len(targets)) }
