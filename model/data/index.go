package data

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/token"
)

// The files of a data folder beside the shards and the tokenizer's.
const (
	// indexFile appears last: a folder that has it is whole.
	indexFile = "data.json"
	// checkedFile says which shards were compared with their checksums.
	checkedFile = "checked.json"
	// journalFile is there while a preparation is not at its end.
	journalFile = "unfinished.json"
)

// maxIndex bounds these files.
const maxIndex = 128 << 20

// The kinds of these files, by which they are told from those of others.
const (
	indexKind   = "sffn data"
	checkedKind = "sffn checked data"
	journalKind = "sffn unfinished data"
)

// index is what data.json has.
type index struct {
	Kind      string          `json:"kind"`
	Version   int             `json:"version"`
	Tokenizer tokenizerEntry  `json:"tokenizer"`
	Sources   []SourceResult  `json:"sources"`
	Splits    map[string]span `json:"splits"`
}

type tokenizerEntry struct {
	Name  string `json:"name"`
	File  string `json:"file,omitempty"`
	Hash  string `json:"hash"`
	Vocab int    `json:"vocab"`
	// Ordinary says that no text was taken for special tokens.
	Ordinary bool `json:"ordinary,omitempty"`
}

// span is a split and its shards.
type span struct {
	Totals
	Shards []shardEntry `json:"shards"`
}

type shardEntry struct {
	File   string `json:"file"`
	Tokens int64  `json:"tokens"`
	Sum    uint32 `json:"sum"`
}

// shardNames are those that shardName gives.
var shardNames = regexp.MustCompile(`^(` + Train + `|` + Validation + `)-[0-9]{5,}` + regexp.QuoteMeta(extension) + `$`)

func shardName(dir, split string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%05d%s", split, i, extension))
}

// readJSON reads one of these files. The second result is false where there is none.
func readJSON(name, kind string, v any) (bool, error) {
	text, err := disk.ReadText(name, maxIndex, " for a file of a data folder")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var k struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(text, &k); err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	if k.Kind != kind {
		return false, fmt.Errorf("%s: not a file of sffn prepare: kind %.40q, want %q", name, k.Kind, kind)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	return true, nil
}

func writeJSON(name string, v any) error {
	return disk.Replace(name, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(v)
	})
}

// readIndex reads and checks data.json.
func readIndex(dir string) (*index, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("%w; make the folder with sffn prepare", err)
	}
	x := &index{}
	name := filepath.Join(dir, indexFile)
	switch ok, err := readJSON(name, indexKind, x); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, explainMissing(dir)
	}
	if x.Version != version {
		return nil, fmt.Errorf("%s: version %d, want %d: it was made by another version of this program; prepare the folder again", name, x.Version, version)
	}
	if len(x.Splits) != 2 {
		return nil, fmt.Errorf("%s: %d splits, want %s and %s", name, len(x.Splits), Train, Validation)
	}
	if h, err := hex.DecodeString(x.Tokenizer.Hash); err != nil || len(h) != 32 {
		return nil, fmt.Errorf("%s: %.80q is no hash of a tokenizer", name, x.Tokenizer.Hash)
	}
	for _, split := range []string{Train, Validation} {
		s, tokens := x.Splits[split], int64(0)
		if len(s.Shards) < 1 || len(s.Shards) > maxShards {
			return nil, fmt.Errorf("%s: split %s has %d shards, want 1 to %d", name, split, len(s.Shards), maxShards)
		}
		for i, e := range s.Shards {
			if want := filepath.Base(shardName(dir, split, i)); e.File != want {
				return nil, fmt.Errorf("%s: shard %d of %s is %.80q, want %s", name, i, split, e.File, want)
			}
			if e.Tokens < 1 || e.Tokens > maxShardTokens {
				return nil, fmt.Errorf("%s: %s has %d tokens, want 1 to %d", name, e.File, e.Tokens, maxShardTokens)
			}
			tokens += e.Tokens
		}
		if tokens != s.Tokens || s.TextBytes < 0 || s.DecodedBytes < 0 {
			return nil, fmt.Errorf("%s: the shards of %s have %d tokens, the split %d, of %d bytes of text that decode to %d", name, split, tokens, s.Tokens, s.TextBytes, s.DecodedBytes)
		}
	}
	return x, nil
}

// errNoIndex says that a folder has no index, and no unfinished one.
var errNoIndex = errors.New("make the folder with sffn prepare")

// explainMissing says why a folder without an index is none of data.
func explainMissing(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, journalFile)); err == nil {
		return fmt.Errorf("%s: its preparation was interrupted; the same sffn prepare goes on with it", dir)
	}
	return fmt.Errorf("%s: no %s; %w", dir, indexFile, errNoIndex)
}

// openTokenizer returns the tokenizer that the shards were made with.
func (x *index) openTokenizer(dir string) (token.Tokenizer, error) {
	t, err := token.InFolder(dir, x.Tokenizer.Name)
	if err != nil {
		return nil, fmt.Errorf("%s: the tokenizer %s: %w", dir, x.Tokenizer.Name, err)
	}
	if h := t.Hash(); hex.EncodeToString(h[:]) != x.Tokenizer.Hash {
		what := "this program's"
		if x.Tokenizer.File != "" {
			what = x.Tokenizer.File
		}
		return nil, fmt.Errorf("%s: %s is another tokenizer (hash %x...) than the data was made with (%.8s...); put that one back, or prepare the folder again", dir, what, h[:4], x.Tokenizer.Hash)
	}
	if t.Vocab() != x.Tokenizer.Vocab {
		return nil, fmt.Errorf("%s: the tokenizer %s has %d ids, the data was made with %d; prepare the folder again", dir, x.Tokenizer.Name, t.Vocab(), x.Tokenizer.Vocab)
	}
	return t, nil
}

// checked is what checked.json has: by name of the shard how it was when its tokens
// were compared with their checksums.
type checked struct {
	Kind   string                  `json:"kind"`
	Shards map[string]checkedEntry `json:"shards"`
}

type checkedEntry struct {
	Size int64     `json:"size"`
	Time time.Time `json:"time"`
	Sum  uint32    `json:"sum"`
	// ID is that of the file on its disk: a copy is checked again.
	ID string `json:"id,omitempty"`
}

func (s *shard) checkedEntry() checkedEntry {
	return checkedEntry{s.size, time.Unix(0, s.mtime).UTC(), s.sum, s.id}
}
