package hub

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/model/token"
)

// What lies beside a tokenizer is understood or left out, whatever it is, at a cost
// that goes with its size.
func FuzzBeside(f *testing.F) {
	for _, text := range []string{`{"eos_token": "</s>", "bos_token": {"content": "<s>"}, "chat_template": "{{ x }}"}`, `{"chat_template": [{"name": "default", "template": "x"}]}`,
		`{"eos_token": null, "pad_token": 7, "chat_template": {"a": []}}`, `[]`, `null`, ``, "\xff", `{"a_token":` + strings.Repeat(`{"content":`, 1000)} {
		f.Add([]byte(text), []byte(text))
	}
	v, err := newVocabulary(token.Bytes{}, 300)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, config, special []byte) {
		tok := token.With(token.Bytes{}, []token.File{{Name: "special_tokens_map.json", Content: special}, {Name: configFile, Content: config}})
		s := sideOf(tok)
		for part, text := range s.tokens {
			if text == "" || !strings.HasSuffix(part, "_token") || !utf8.ValidString(text) {
				t.Fatalf("%q is %q", part, text)
			}
		}
		for _, part := range []string{"eos_token", "bos_token", "pad_token"} {
			if id := s.id(v, part, 256); id < 0 || int(id) >= len(v.tokens) {
				t.Fatalf("%s has id %d", part, id)
			}
		}
	})
}

func TestHostileBeside(t *testing.T) {
	for _, text := range []string{strings.Repeat("[", token.MaxBeside), `{"eos_token": ` + strings.Repeat(`{"content":`, 1<<20), `{"chat_template": "` + strings.Repeat("x", token.MaxBeside-30) + `"}`} {
		frugal.Run(t, 10*token.MaxBeside, func() { sideOf(token.With(token.Bytes{}, []token.File{{Name: configFile, Content: []byte(text)}})) })
	}
}
