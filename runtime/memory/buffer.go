package memory

// Buffer is memory that grows to what is asked of it.
type Buffer struct {
	arena Arena
	data  []float32
}

// Floats is the first n entries, of any content. Those of an earlier call are gone
// where n is more than was ever asked for.
func (b *Buffer) Floats(n int) []float32 {
	if len(b.data) < n {
		b.arena.Close()
		b.data = b.arena.Floats(n)
	}
	return b.data[:n]
}

// Held is all that the last calls asked for.
func (b *Buffer) Held() []float32 { return b.data }

// Close frees the buffer, which may be used again.
func (b *Buffer) Close() {
	b.arena.Close()
	b.data = nil
}
