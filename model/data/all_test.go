package data

// ReadAll reads up to limit tokens from the start.
func (s *Split) ReadAll(limit int64) ([]int32, error) {
	ids := make([]int32, min(limit, s.size))
	return ids, s.Read(ids, 0)
}
