package sentencepiece

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/structuredffn/sffn/internal/frugal"
)

// results are what the library does with texts.
type results struct {
	IDs           [][]int32
	Decoded       []string
	BOS, EOS, UNK int32
}

// cases are those of testdata/make.py.
type cases struct {
	Texts  []string
	Bytes  [][]byte // no UTF-8
	Long   [][2]any // a text and how often it is repeated
	Models []struct {
		Name, Map string
		results
		Bytes [][]int32
		Long  []struct {
			Count  int
			SHA256 string
		}
		content []byte
	}
	Random []struct {
		Model []byte
		Error string
		Texts []string
		results
	}
}

var readCases = sync.OnceValues(func() (*cases, error) {
	z, err := zip.OpenReader("testdata/cases.zip")
	if err != nil {
		return nil, err
	}
	defer z.Close()
	files := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			return nil, err
		}
		if files[f.Name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	c := new(cases)
	if err := json.Unmarshal(files["cases.json"], c); err != nil {
		return nil, err
	}
	for i, m := range c.Models {
		content := files[m.Name+".model"]
		if m.Map != "" {
			content = slices.Concat(content, msg(3, msg(2, files[m.Map+".map"])))
		}
		c.Models[i].content = content
	}
	return c, nil
})

func load(t testing.TB) *cases {
	t.Helper()
	c, err := readCases()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// model returns the tokenizer of a case.
func (c *cases) model(t testing.TB, name string) *Tokenizer {
	t.Helper()
	for _, m := range c.Models {
		if m.Name == name {
			tok, err := Parse(name, m.content)
			if err != nil {
				t.Fatal(err)
			}
			return tok
		}
	}
	t.Fatalf("no model %s", name)
	return nil
}

// msg, num and bits32 append fields of a message.
func msg(field protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), slices.Concat(parts...))
}

func num(field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), v)
}

func bits32(field protowire.Number, v float32) []byte {
	return protowire.AppendFixed32(protowire.AppendTag(nil, field, protowire.Fixed32Type), math.Float32bits(v))
}

func pieceOf(text string, k kind, score float32) []byte {
	return msg(1, msg(1, []byte(text)), bits32(2, score), num(3, uint64(k)))
}

// basic are the pieces that every model has.
func basic() []byte {
	return slices.Concat(pieceOf("<unk>", unknown, 0), pieceOf("<s>", control, 0), pieceOf("</s>", control, 0))
}

// compare encodes and decodes all texts.
func compare(t *testing.T, tok *Tokenizer, texts []string, want results) {
	t.Helper()
	if tok.EndOfDocument() != want.EOS {
		t.Errorf("the end of a document is %d, want %d", tok.EndOfDocument(), want.EOS)
	}
	before, after := tok.Frame()
	if want.BOS >= 0 && (len(before) != 1 || before[0] != want.BOS) || want.BOS < 0 && len(before) > 0 || len(after) > 0 {
		t.Errorf("frame %v %v, want %d before", before, after, want.BOS)
	}
	if tok.unknown != want.UNK {
		t.Errorf("unknown is %d, want %d", tok.unknown, want.UNK)
	}
	for i, text := range texts {
		ids := want.IDs[i]
		for range 2 { // the second time from the cache
			if got := tok.Encode([]int32{-7}, []byte(text)); got[0] != -7 || !slices.Equal(got[1:], ids) {
				t.Errorf("%.60q:\n got %.60v\nwant %.60v", text, got[1:], ids)
				break
			}
		}
		parts := *tok
		parts.chunk = 3
		if got := parts.EncodeOrdinary(nil, []byte(text)); !slices.Equal(got, ids) {
			t.Errorf("%.60q: in small parts it became %.60v, want %.60v", text, got, ids)
		}
		var b []byte
		for _, id := range ids {
			b = tok.Decode(b, id)
		}
		got, decoded := string(b), want.Decoded[i]
		switch n := tok.norm; {
		case n.removeExtra: // it leaves out all spaces at the beginning
			got, decoded = strings.TrimLeft(got, " "), strings.TrimLeft(decoded, " ")
		case n.space != space || len(ids) > 0 && ids[0] == tok.unknown: // it keeps the first space
		case tok.Prefixed(), n.suffix: // it leaves out one
			got = strings.TrimPrefix(got, " ")
		}
		// It replaces bytes that are no UTF-8, which a stream of tokens does too.
		if got = string([]rune(got)); got != decoded {
			t.Errorf("%v became %.60q, want %.60q", ids, got, decoded)
		}
	}
}

// Every kind of model does what the library does.
func TestModels(t *testing.T) {
	c := load(t)
	for _, m := range c.Models {
		t.Run(m.Name, func(t *testing.T) {
			tok := c.model(t, m.Name)
			compare(t, tok, c.Texts, m.results)
			for i, text := range c.Bytes {
				if got := tok.Encode(nil, text); !slices.Equal(got, m.Bytes[i]) {
					t.Errorf("%q became %v, want %v", text, got, m.Bytes[i])
				}
			}
			for i, l := range c.Long {
				text := strings.Repeat(l[0].(string), int(l[1].(float64)))
				h := sha256.New()
				ids := tok.Encode(nil, []byte(text))
				if err := binary.Write(h, binary.LittleEndian, ids); err != nil {
					t.Fatal(err)
				}
				if want := m.Long[i]; len(ids) != want.Count || hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
					t.Errorf("%.30q repeated became %d other ids than the library's %d", text, len(ids), want.Count)
				}
			}
		})
	}
}

// So do models that no training makes.
func TestRandomModels(t *testing.T) {
	ambiguous, wrong := 0, 0
	for i, m := range load(t).Random {
		tok, err := Parse("x", m.Model)
		if m.Error != "" {
			wrong++
			if err == nil {
				t.Errorf("model %d is read; the library says %s", i, m.Error)
			}
			continue
		}
		if err != nil {
			t.Errorf("model %d: %v", i, err)
			continue
		}
		if p, ok := tok.model.(*pairModel); ok && p.ambiguous {
			ambiguous++
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) { compare(t, tok, m.Texts, m.results) })
	}
	if ambiguous < 8 || wrong < 8 {
		t.Errorf("%d models with ambiguous unused pieces and %d that are wrong, want more", ambiguous, wrong)
	}
}

// However a text is cut into parts, the ids are the same.
func TestChunks(t *testing.T) {
	c := load(t)
	all := strings.Join(c.Texts, "") + "a ▁ ▁▁ ▁▁ "
	for _, m := range c.Models {
		tok := c.model(t, m.Name)
		tok.chunk = math.MaxInt
		want := tok.Encode(nil, []byte(all))
		for _, chunk := range []int{1, 2, 7, 100, 1000} {
			tok.chunk = chunk
			if got := tok.Encode(nil, []byte(all)); !slices.Equal(got, want) {
				t.Errorf("%s: other ids in chunks of %d bytes", m.Name, chunk)
			}
		}
	}
}

// Words of a unigram model are kept only where no sum before them matters: what
// comes from the cache is what is found anew, whatever the sum.
func TestStable(t *testing.T) {
	c := load(t)
	kept := 0
	for _, name := range []string{"unigram", "unigram-fold", "unigram-symbols", "unigram-bare"} {
		tok := c.model(t, name)
		m := tok.model.(*unigramModel)
		text := tok.norm.all(strings.Join(c.Texts, " ") + strings.Repeat(c.Long[1][0].(string), 3))
		s := tok.take()
		for len(text) > 0 {
			n := tok.cut.first(text)
			w := text[:n]
			text = text[n:]
			if n > maxCached {
				continue
			}
			path, low, high := m.stable(s, w)
			if path == nil {
				continue
			}
			kept++
			path = slices.Clone(path)
			for _, sum := range []float32{0, -0.1, -17.77, -4095.9, -65535.97, -98765.43, -maxScore - low + 0.01, 33333.33} {
				if sum+low <= -maxScore || sum+high >= maxScore {
					continue
				}
				s.sum = sum
				if got := m.best(s, w); !slices.Equal(got, path) {
					t.Errorf("%s: %q after %v is %v, kept was %v", name, w, sum, got, path)
				}
				want := s.sum
				s.sum = sum
				if m.take(s, new(output), w, path, true); s.sum != want {
					t.Errorf("%s: %q after %v leads to %v, kept to %v", name, w, sum, want, s.sum)
				}
			}
		}
	}
	if kept < 1000 {
		t.Errorf("%d words were kept", kept)
	}
}

// all returns what a whole text becomes.
func (n *normalizer) all(text string) []byte {
	r := reader{normalizer: n, text: []byte(text)}
	return r.fill(nil, math.MaxInt)
}

func TestConcurrent(t *testing.T) {
	c := load(t)
	for _, name := range []string{"unigram", "bpe-bytes"} {
		tok := c.model(t, name)
		all := []byte(strings.Join(c.Texts, " "))
		want := tok.Encode(nil, all)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5 {
					if got := tok.Encode(nil, all); !slices.Equal(got, want) {
						t.Error("other ids")
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestTokenizer(t *testing.T) {
	c := load(t)
	tok := c.model(t, "bpe-bytes")
	if tok.Name() != "bpe-bytes" || tok.Vocab() != 1000 || !tok.Prefixed() {
		t.Errorf("%s, %d pieces, prefixed %v", tok.Name(), tok.Vocab(), tok.Prefixed())
	}
	name, content := tok.File()
	if again, err := Parse("other", content); err != nil || name != "tokenizer.model" || again.Hash() != tok.Hash() {
		t.Errorf("%s: %v", name, err)
	}
	if other := c.model(t, "unigram"); other.Hash() == tok.Hash() {
		t.Error("two models have the same hash")
	}
	for id, want := range map[int32]string{-1: "", 0: "", 1: "<s>", 2: "</s>", 3: "", 300: "", 1000: ""} {
		if got := tok.Special(id); got != want {
			t.Errorf("%d is spelled %q, want %q", id, got, want)
		}
	}
	for id, want := range map[int32]string{-1: "", 0: " ⁇ ", 1: "", 2: "", 3: "\x00", 258: "\xff", 1000: "", math.MaxInt32: "", math.MinInt32: ""} {
		if got := tok.Decode([]byte("x"), id); string(got) != "x"+want {
			t.Errorf("%d is decoded as %q, want %q", id, got, want)
		}
	}
	var text []byte
	for _, id := range tok.Encode(nil, []byte("日本 é\U0001f469")) {
		text = tok.Decode(text, id)
	}
	if string(text) != " 日本 é\U0001f469" {
		t.Errorf("%q", text)
	}
}

// Scores that are equal are taken from the left, -0 is below 0, unused pieces are
// cut again.
func TestMerges(t *testing.T) {
	bare := msg(3, num(3, 0), num(4, 0))
	model := func(parts ...[]byte) *Tokenizer {
		tok, err := Parse("x", slices.Concat(basic(), msg(2, num(3, uint64(bytePair))), bare, slices.Concat(parts...)))
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	nought := float32(math.Copysign(0, -1))
	for _, test := range []struct {
		tok  *Tokenizer
		text string
		want []int32
	}{
		{model(pieceOf("a", normal, -9), pieceOf("b", normal, -9), pieceOf("ab", normal, 1), pieceOf("ba", normal, 1)), "abab", []int32{5, 5}},
		{model(pieceOf("a", normal, -9), pieceOf("b", normal, -9), pieceOf("ab", normal, nought), pieceOf("ba", normal, 0)), "abab", []int32{3, 6, 4}},
		{model(pieceOf("a", normal, -9), pieceOf("aa", unused, -1), pieceOf("aaa", normal, -2)), "aaaaa", []int32{3, 3, 5}},
		// Of an unused piece that was not made the last pair that met counts.
		{model(pieceOf("a", normal, -9), pieceOf("b", normal, -9), pieceOf("c", normal, -9), pieceOf("ab", normal, -1), pieceOf("bc", normal, -2), pieceOf("abc", unused, -3)), "abc", []int32{6, 5}},
		// Characters that are no pieces are parts of one.
		{model(pieceOf("xy", normal, -1)), "xyyxxy", []int32{3, 0, 3}},
	} {
		if got := test.tok.Encode(nil, []byte(test.text)); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.text, got, test.want)
		}
	}
}

func TestWrongModels(t *testing.T) {
	trained := func(parts ...[]byte) []byte { return msg(2, parts...) }
	units := func(f func(u []uint32)) []byte {
		u := make([]uint32, 512)
		u[0] = 256 << 10
		for i := 1; i < len(u); i++ {
			u[i] = 1 << 31 // a value: no child of any unit
		}
		f(u)
		b := binary.LittleEndian.AppendUint32(nil, uint32(4*len(u)))
		for _, u := range u {
			b = binary.LittleEndian.AppendUint32(b, u)
		}
		return b
	}
	rules := func(trie []byte, texts string) []byte {
		return slices.Concat(basic(), msg(3, msg(2, trie, []byte(texts))))
	}
	// one leads from the root by 'a' to a unit, which has the bits.
	one := func(bits uint32) []byte { return units(func(u []uint32) { u[256^'a'] = 'a' | bits }) }
	for _, test := range []struct {
		content []byte
		want    string
	}{
		{nil, "x: there are no pieces"},
		{[]byte("not a model\n"), "is no SentencePiece model"},
		{basic()[:len(basic())-1], "byte 30: unexpected EOF: the file is cut short"},
		{msg(1, []byte{0x0a, 0x7f}), "byte 2: unexpected EOF"},
		{num(1, 5), "byte 0: field 1 has wire type 0, want 2"},
		{slices.Concat(basic(), pieceOf("", normal, 0)), "piece 3: the piece is empty"},
		{slices.Concat(basic(), pieceOf("\xff", normal, 0)), `piece 3: "\xff" is no UTF-8`},
		{slices.Concat(basic(), pieceOf("a", 7, 0)), "piece 3 has type 7, want 1 to 6"},
		{slices.Concat(basic(), pieceOf("a", normal, float32(math.NaN()))), `piece 3: the score of "a" is NaN`},
		{slices.Concat(basic(), pieceOf("a", normal, float32(math.Inf(-1)))), `is -Inf, want a number`},
		{slices.Concat(basic(), pieceOf("a", normal, 0), pieceOf("a", normal, 0)), `pieces 3 and 4 are both "a"`},
		{slices.Concat(basic(), pieceOf("a\x00", normal, 0)), "no zero bytes"},
		{slices.Concat(basic(), pieceOf("a", unknown, 0)), "a second unknown piece after 0"},
		{slices.Concat(basic(), pieceOf("<0x41>", byteValue, 0)), "without byte_fallback"},
		{slices.Concat(basic(), trained(num(35, 1)), pieceOf("<0x4g>", byteValue, 0)), "want a byte as <0x00>"},
		{slices.Concat(basic(), trained(num(35, 1)), pieceOf("<0x0a>", byteValue, 0)), "want a byte as <0x00>"},
		{slices.Concat(basic(), trained(num(35, 1)), pieceOf("<0x00>", byteValue, 0)), "without a piece for the byte 0x01"},
		{slices.Concat(basic(), pieceOf(strings.Repeat("a", maxPiece), normal, 0)), "8000 bytes, want less than 8000"},
		{pieceOf("</s>", control, 0), "there is no unknown piece"},
		{slices.Concat(pieceOf("<unk>", unknown, 0), pieceOf("</s>", normal, 0)), `there is no control symbol "</s>", which ends documents`},
		{slices.Concat(basic(), trained(msg(47, []byte("<end>")))), `no control symbol "<end>"`},
		{slices.Concat(basic(), trained(num(3, 5))), "model_type is 5"},
		{slices.Concat(basic(), msg(5, msg(2, []byte("x")))), "denormalizer_spec: rules for decoded text are not supported"},
		{rules([]byte{0}, "\x00"), "precompiled_charsmap: cut short"},
		{rules([]byte{0, 8, 0, 0}, "\x00"), "a trie of 2048 bytes in 1"},
		{rules(units(func(u []uint32) {}), "a"), "the last replacement does not end"},
		{rules(slices.Concat([]byte{1, 4, 0, 0}, make([]byte, 1025)), "\x00"), "want a multiple of 1024"},
		{rules(units(func(u []uint32) { u[0] = 512 << 10 }), "\x00"), "the trie points to unit 767 of 512"},
		{rules(one(1<<20|1<<9), "\x00"), "the trie points to unit"},
		{rules(one('a'<<10), "\x00"), "the trie has a circle at unit 353"},
		{rules(one(1<<8|7<<10), "\x00"), ""},
		{rules(units(func(u []uint32) { u[256^'a'] = 'a' | 1<<8 | 7<<10; u[256^'a'^7] = 1<<31 | 9 }), "abc\x00"), "unit 358 has no replacement"},
		{rules(units(func(u []uint32) { u[256^'a'] = 'a' | 1<<8 | 7<<10; u[256^'a'^7] = 9 }), "abc\x00"), "unit 358 has no replacement"},
		{rules(one(1<<8|7<<10), "\xff\x00"), `the replacement "\xff"`},
		{rules(one(1<<8|7<<10), strings.Repeat("a", maxReplacement+1)+"\x00"), "want valid UTF-8 of at most 256 bytes"},
	} {
		_, err := Parse("x", test.content)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "x: ") || len(err.Error()) > 300) {
			t.Errorf("%.300v, want %q", err, test.want)
		}
	}
	// Rules are what they say.
	tok, err := Parse("x", slices.Concat(rules(one(1<<8|7<<10), "bc\x00"), pieceOf("bc", normal, 0), msg(3, num(3, 0))))
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode(nil, []byte("aa")); !slices.Equal(got, []int32{3, 3}) {
		t.Errorf("%v", got)
	}
}

// Of 40 rules for what a text begins with the library looks at 32.
func TestManyRules(t *testing.T) {
	units := make([]uint32, 256*43)
	for i := range units {
		units[i] = 1 << 31
	}
	units[0] = 256 << 10
	at := func(rule int) uint32 { return uint32(256*(rule+1)) ^ 'a' }
	for rule := range 40 {
		base := uint32(256 * (rule + 2))
		units[at(rule)] = (at(rule)^base)<<10 | 1<<8 | 'a'
		units[base] = 1<<31 | uint32(2*rule)
	}
	blob := binary.LittleEndian.AppendUint32(nil, uint32(4*len(units)))
	for _, u := range units {
		blob = binary.LittleEndian.AppendUint32(blob, u)
	}
	for rule := range 40 {
		blob = append(blob, byte('A'+rule), 0)
	}
	m, err := newCharsmap(blob)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]int{1: 1, 7: 7, 32: 32, 33: 32, 40: 32, 100: 32} {
		if got, text := m.find(bytes.Repeat([]byte("a"), n)); got != want || text != string(rune('A'+want-1)) {
			t.Errorf("%d bytes: a rule for %d bytes gives %q, want one for %d", n, got, text, want)
		}
	}
}

// Every beginning of a file is an error or a model, and no panic.
func TestCutShort(t *testing.T) {
	content := load(t).Models[0].content
	for n := range content {
		if n > 3000 && n < len(content)-300 {
			continue
		}
		if tok, err := Parse("x", content[:n]); err == nil {
			tok.Encode(nil, []byte("a text"))
		}
	}
}

// Models that ask for much are refused or read at little cost.
func TestHostileModels(t *testing.T) {
	deep := bytes.Repeat([]byte{0x0b}, 1<<20) // groups in groups
	var many, runs, long []byte
	for i := range 300_000 {
		many = append(many, pieceOf(fmt.Sprintf("%x", i*7919), normal, float32(i%1000))...)
	}
	for i := 1; i < 3000; i++ {
		runs = append(runs, pieceOf(strings.Repeat("a", i), normal, float32(i))...)
	}
	for i := range 1000 {
		long = append(long, pieceOf(strings.Repeat(fmt.Sprintf("%x ", i*7919), 1000), normal, float32(i))...)
	}
	bpe := msg(2, num(3, uint64(bytePair)))
	for _, test := range []struct {
		name    string
		content []byte
		bytes   uint64
		want    string
	}{
		{"too large", make([]byte, maxFile+1), 1 << 20, "bytes are too many"},
		{"deep", deep, 2 << 20, "is no SentencePiece model"},
		{"many pieces", bytes.Repeat(pieceOf("a", normal, 0), maxPieces+1), 400 << 20, "more than 1048576 pieces"},
		{"many different", slices.Concat(basic(), many), 200 << 20, ""},
		{"many merges", slices.Concat(basic(), bpe, many), 400 << 20, ""},
		{"runs", slices.Concat(basic(), runs), 100 << 20, ""},
		{"runs that merge", slices.Concat(basic(), bpe, runs), 1 << 30, "more than 4194304 pairs of pieces"},
		{"long", slices.Concat(basic(), long), 1 << 30, "a tree of them has more than 4194304 nodes"},
		{"long that merge", slices.Concat(basic(), bpe, long), 200 << 20, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			frugal.Run(t, test.bytes, func() {
				_, err := Parse("x", test.content)
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%.300v, want %q", err, test.want)
				}
			})
		})
	}
}

// A long run of one character, or one long word, takes little time.
func TestHostileTexts(t *testing.T) {
	c := load(t)
	for _, name := range []string{"bpe-bytes", "bpe-symbols", "bpe-spaces", "unigram", "unigram-whole", "word"} {
		tok := c.model(t, name)
		for _, part := range []string{"a", " ", "\n", "▁", "😀", "ab", "日", "\x01"} {
			text := bytes.Repeat([]byte(part), 1<<18/len(part))
			frugal.Run(t, 200<<20, func() { tok.Encode(nil, text) })
		}
	}
}

func FuzzParse(f *testing.F) {
	bare := msg(3, num(3, 0), num(4, 0))
	f.Add(basic(), "a b")
	f.Add(slices.Concat(basic(), bare, msg(2, num(3, 2)), pieceOf("a", normal, -1), pieceOf("▁a", unused, -2), pieceOf("a▁a", userDefined, 3)), "a a▁a")
	f.Add(slices.Concat(basic(), bare, msg(2, num(3, 1)), pieceOf("a", normal, -1), pieceOf("▁a", unused, -2), pieceOf("a a", userDefined, 3)), "a a▁a")
	f.Add(slices.Concat(basic(), msg(2, num(3, 3), num(24, 1)), pieceOf("▁a", normal, -1)), " a\x00a")
	f.Add(slices.Concat(basic(), msg(2, num(3, 4)), pieceOf("a", normal, -1), pieceOf("ab", userDefined, -1)), "abab")
	trie := binary.LittleEndian.AppendUint32(nil, 2048)
	for i := range uint32(512) {
		u := uint32(1 << 31)
		switch i {
		case 0:
			u = 256 << 10
		case 256 ^ 'a':
			u = 'a' | 1<<8 | 7<<10
		}
		trie = binary.LittleEndian.AppendUint32(trie, u)
	}
	f.Add(slices.Concat(basic(), pieceOf("bc", normal, 0), msg(3, msg(2, trie, []byte("bc\x00")))), "aa b")
	f.Fuzz(func(t *testing.T, content []byte, text string) {
		tok, err := Parse("x", content)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("%d bytes of error", len(err.Error()))
			}
			return
		}
		checkText(t, tok, text)
	})
}

// checkText encodes a text whole and in small parts, and decodes it.
func checkText(t *testing.T, tok *Tokenizer, text string) {
	ids := tok.Encode(nil, []byte(text))
	for _, id := range ids {
		if id < 0 || int(id) >= tok.Vocab() || tok.Special(id) != "" {
			t.Errorf("%q has the id %d", text, id)
		}
	}
	tok.chunk = 3
	if again := tok.Encode(nil, []byte(text)); !slices.Equal(again, ids) {
		t.Errorf("%q became %v and %v", text, ids, again)
	}
	var b []byte
	for _, id := range ids {
		b = tok.Decode(b, id)
	}
	// All characters that the model knows come back. Without an unknown piece that
	// is the normalized text.
	if slices.Contains(ids, tok.unknown) {
		return
	}
	if want := strings.ReplaceAll(string(tok.norm.all(text)), space, " "); strings.ReplaceAll(string(b), space, " ") != want {
		t.Errorf("%q came back as %q, want %q", text, b, want)
	}
	if !utf8.Valid(b) {
		t.Errorf("%q came back as %q", text, b)
	}
}

// Texts come back but for what normalization changes.
func FuzzText(f *testing.F) {
	c := load(f)
	names := []string{"bpe-bytes", "bpe-symbols", "bpe-suffix", "unigram", "unigram-fold", "unigram-symbols", "unigram-whole", "char", "word"}
	var toks []*Tokenizer
	for _, name := range names {
		toks = append(toks, c.model(f, name))
	}
	for i, text := range c.Texts {
		f.Add(uint(i), text)
	}
	f.Fuzz(func(t *testing.T, which uint, text string) {
		tok := *toks[which%uint(len(toks))]
		checkText(t, &tok, text)
		if which%uint(len(toks)) == 0 { // identity and bytes: nothing is lost
			var b []byte
			for _, id := range tok.Encode(nil, []byte(text)) {
				b = tok.Decode(b, id)
			}
			want := strings.ReplaceAll(string([]rune(text)), space, " ")
			if got := strings.TrimPrefix(string(b), " "); strings.ReplaceAll(got, space, " ") != want {
				t.Errorf("%q came back as %q", text, got)
			}
		}
	})
}
