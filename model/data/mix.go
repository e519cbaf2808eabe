package data

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/data/source"
)

// place is how far a source was read.
type place struct {
	At source.Position `json:"at"`
	// Pass is how often it has begun again.
	Pass int64 `json:"pass,omitempty"`
	// Text is the bytes of text that were taken from it, over all passes.
	Text int64 `json:"text_bytes"`
	// Ended says that nothing is left of it.
	Ended bool `json:"ended,omitempty"`
}

// mixer takes documents from several sources: from one after the other, or so that
// the text of each has its share.
type mixer struct {
	ctx     context.Context
	sources []source.Source
	have    []source.Inventory
	shares  []float64 // nil where one comes after the other
	repeat  bool      // sources begin again at their end
	cut     bool      // text files are few
	open    []source.Reader
	mixState
}

// mixState is where a mixer is.
type mixState struct {
	Places []place `json:"places"`
	// Now is the source at work.
	Now int `json:"now"`
	// Inside says that it is inside a document.
	Inside bool `json:"inside,omitempty"`
}

func (s mixState) clone() mixState {
	s.Places = slices.Clone(s.Places)
	return s
}

// next is the next piece, and the source it is of. io.EOF is the end.
func (m *mixer) next() (int, source.Piece, error) {
	for {
		if !m.Inside && !m.choose() {
			return 0, source.Piece{}, io.EOF
		}
		p, err := m.read()
		if err == io.EOF {
			if err := m.end(); err != nil {
				return 0, source.Piece{}, err
			}
			continue
		}
		if err != nil {
			return 0, source.Piece{}, err
		}
		if len(p.Text) == 0 && p.First && p.Last {
			continue // no document
		}
		m.Inside = !p.Last
		m.Places[m.Now].Text += int64(len(p.Text))
		return m.Now, p, nil
	}
}

// choose picks the source of the next document: that which lags most.
func (m *mixer) choose() bool {
	if m.shares == nil {
		for m.Now < len(m.Places) && m.Places[m.Now].Ended {
			m.Now++
		}
		return m.Now < len(m.Places)
	}
	if m.ended() != "" {
		return false
	}
	m.Now = 0
	for i := range m.Places {
		if float64(m.Places[i].Text)/m.shares[i] < float64(m.Places[m.Now].Text)/m.shares[m.Now] {
			m.Now = i
		}
	}
	return true
}

func (m *mixer) read() (source.Piece, error) {
	at := &m.Places[m.Now]
	if m.open[m.Now] == nil {
		r, err := m.sources[m.Now].Open(m.ctx, at.At, m.cut)
		if err != nil {
			return source.Piece{}, err
		}
		m.open[m.Now] = r
	}
	p, err := m.open[m.Now].Next()
	at.At = m.open[m.Now].Position()
	return p, err
}

// end is the end of the source at work.
func (m *mixer) end() error {
	at, name := &m.Places[m.Now], m.sources[m.Now].Name()
	err := m.open[m.Now].Close()
	m.open[m.Now] = nil
	switch {
	case m.shares == nil:
		at.Ended = true
	case m.repeat && !m.have[m.Now].Stream:
		if at.Text == 0 {
			return errors.Join(err, fmt.Errorf("no text in %s", name))
		}
		at.At, at.Pass = source.Position{}, at.Pass+1
	default:
		at.Ended = true
	}
	return err
}

// ended is the source whose end is that of the mixture.
func (m *mixer) ended() string {
	for i, at := range m.Places {
		if at.Ended && m.shares != nil {
			return m.sources[i].Name()
		}
	}
	return ""
}

// progress is the number of bytes of files that were read, of all passes.
func (m *mixer) progress() (n int64) {
	for i, at := range m.Places {
		n += at.Pass * m.have[i].Bytes
		if m.open[i] != nil {
			n += m.open[i].Read()
		} else if at.Ended {
			n += m.have[i].Bytes
		}
	}
	return n
}

// left says what is left of the sources whose end it was not.
func (m *mixer) left() (lines []string) {
	for i, s := range m.sources {
		if m.ended() == "" || m.Places[i].Ended {
			continue
		}
		line := fmt.Sprintf("%s is at its end; of %s", m.ended(), s.Name())
		if b := m.have[i].Bytes; b > 0 && m.open[i] != nil {
			read := m.open[i].Read()
			line += fmt.Sprintf(" %sB of %sB are left", term.Count(float64(b-min(b, read))), term.Count(float64(b)))
		} else {
			line += " all is left"
		}
		lines = append(lines, line)
	}
	return lines
}

func (m *mixer) close() {
	for _, r := range m.open {
		if r != nil {
			r.Close()
		}
	}
}
