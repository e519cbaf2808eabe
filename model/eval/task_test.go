package eval

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/runtime/collective"
)

// small is a byte model of 40 positions that nobody trained.
func small(t testing.TB) *Model {
	s := modeltest.Forms[0]
	s.Vocab, s.MaxPositions = 260, 40
	m := modeltest.Build(t, s, "", 2)
	return &Model{Name: "small", Group: collective.Alone(), c: &decode.Checkpoint{Tokenizer: token.Bytes{}}, m: decode.Of(m)}
}

// The score of a choice is the sum of the log-probabilities of its tokens, which
// one pass over the question and it alone gives.
func TestScores(t *testing.T) {
	m := small(t)
	for _, q := range []struct {
		Question
		begin []string // of what is scored: the choice with the space that goes before it
		cut   bool
	}{
		{Question: Question{"ab cd", []string{"e", "fgh", "é"}, 0}, begin: []string{" e", " fgh", " é"}},
		{Question: Question{"ab ", []string{" x", "y"}, 0}, begin: []string{" x", " y"}},
		{Question: Question{"ab\n", []string{"x", "\ny"}, 0}, begin: []string{"x", "\ny"}},
		{Question: Question{"", []string{"x", "yy"}, 0}, begin: []string{"x", "yy"}},
		{Question: Question{strings.Repeat("long ", 20), []string{"x", strings.Repeat("y", 30)}, 0}, begin: []string{" x", " " + strings.Repeat("y", 30)}, cut: true},
	} {
		s := scorer{m: m}
		got, cut, err := s.score(q.Question)
		s.close()
		if err != nil || cut != q.cut {
			t.Fatalf("%v: cut %v, %v", q.Question, cut, err)
		}
		for i, begin := range q.begin {
			text := strings.TrimRight(q.Text, " ") + begin
			ids := append([]int32{256}, token.Bytes{}.Encode(nil, []byte(text))...)
			ids = ids[max(0, len(ids)-1-m.m.Spec.MaxPositions):]
			var logits []float32
			if err := m.m.Logits(ids[:len(ids)-1], true, func(l []float32) error { logits = append(logits, l...); return nil }); err != nil {
				t.Fatal(err)
			}
			want := 0.0
			for j := len(ids) - len(begin); j < len(ids); j++ {
				row, sum := logits[(j-1)*260:j*260], 0.0
				for _, x := range row {
					sum += math.Exp(float64(x))
				}
				want += float64(row[ids[j]]) - math.Log(sum)
			}
			if math.Abs(got[i]-want) > 1e-5*float64(len(begin)) {
				t.Errorf("%q: choice %q scores %v, want %v", q.Text, q.Choices[i], got[i], want)
			}
		}
	}
	s := scorer{m: m}
	defer s.close()
	if _, _, err := s.score(Question{"a", []string{"b", strings.Repeat("y", 41)}, 0}); err == nil || !strings.Contains(err.Error(), "choice 1 has 42 tokens, the model's context is 40") {
		t.Errorf("a choice that is too long: %v", err)
	}
}

// Batches of choices that do not fit at once score as others do.
func TestScoresInParts(t *testing.T) {
	m := small(t)
	q := Question{strings.Repeat("w", 36), nil, 0}
	for i := range maxChoices {
		q.Choices = append(q.Choices, fmt.Sprint(i%10))
	}
	s := scorer{m: m}
	defer s.close()
	scores, _, err := s.score(q)
	if err != nil || len(scores) != maxChoices || len(scores)*39 <= scored {
		t.Fatalf("%d scores, %v", len(scores), err)
	}
	for i, x := range scores {
		if x != scores[i%10] {
			t.Errorf("choice %d scores %v, the same text before %v", i, x, scores[i%10])
		}
	}
}

// A model's accuracies are those of its scores: by hand, on questions whose right
// answers are the likeliest, the likeliest a byte, and neither.
func TestTask(t *testing.T) {
	m := small(t)
	choices := []string{"a", "bbbbbbbb", "cccc"}
	s := scorer{m: m}
	defer s.close()
	scores, _, err := s.score(Question{"q", choices, 0})
	if err != nil {
		t.Fatal(err)
	}
	perByte := []float64{scores[0], scores[1] / 8, scores[2] / 4}
	first, second := best(scores), best(perByte)
	if first == second {
		t.Fatalf("scores %v choose alike with and without bytes", scores)
	}
	task := &Task{Name: "t", Questions: []Question{{"q", choices, first}, {"q", choices, second}, {"q", choices, 3 - first - second}, {"q", choices, first}}}
	n := 0
	r, err := m.Task(task, func(done int) { n = done })
	if err != nil {
		t.Fatal(err)
	}
	if r.Questions != 4 || n != 4 || math.Abs(r.Chance-1./3) > 1e-12 || r.Accuracy != 0.5 || r.PerByte != 0.25 || r.Cut != 0 {
		t.Errorf("%+v", r)
	}
	// Ranks share the questions, and all have the same result.
	for _, ranks := range []int{2, 5} {
		var wg sync.WaitGroup
		for _, g := range collective.Local(ranks) {
			m := small(t)
			m.Group = g
			wg.Go(func() {
				if got, err := m.Task(task, func(int) {}); err != nil || got != r {
					t.Errorf("rank %d of %d: %+v, %v; one process has %+v", g.Rank(), ranks, got, err, r)
				}
			})
		}
		wg.Wait()
	}
	if want := math.Sqrt(0.25 / 3); math.Abs(r.AccuracyError-want) > 1e-12 {
		t.Errorf("standard error %v, want %v", r.AccuracyError, want)
	}
}

func TestReadTask(t *testing.T) {
	two := []string{"x", "y"}
	for line, want := range map[string]Question{
		`{"question": "q", "choices": ["x", "y"], "answer": 1}`:                                                                           {"q", two, 1},
		`{"question": "q", "choices": ["x", "y"], "answer": "y"}`:                                                                         {"q", two, 1},
		`{"question": "q", "choices": ["x", "y"], "answer": "B", "id": 3}`:                                                                {"q", two, 1},
		`{"id": "1", "question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}`:                            {"q", two, 1},
		`{"question_stem": "q", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}], "answerKey": "B"}`:                 {"q", two, 1},
		`{"ind": 24, "ctx_a": "a", "ctx": "q", "endings": ["x", "y"], "source_id": "activitynet~v_-lJS58hyo1c", "label": "1"}`:            {"q", two, 1},
		`{"id": "1", "question": {"stem": "q", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]}, "answerKey": "B"}`: {"q", two, 1},
		`{"question": "q", "choices": ["x", "y"], "answer": 1.0}`:                                                                         {"q", two, 1},
		`{"question": "q", "choices": ["2", "1"], "answer": "1"}`:                                                                         {"q", []string{"2", "1"}, 1},
	} {
		q, err := parseQuestion([]byte(line))
		if err != nil || q.Text != want.Text || !slices.Equal(q.Choices, want.Choices) || q.Answer != want.Answer {
			t.Errorf("%s: %v %v", line, q, err)
		}
	}
	for line, want := range map[string]string{
		`{"question": "q", "choices": ["x", "y"], "answer": 2}`:                                     "answer: 2 is out of range, want a whole number from 0 to 1",
		`{"question": "q", "choices": ["x", "y"], "answer": -1}`:                                    "out of range",
		`{"question": "q", "choices": ["x", "y"], "answer": 0.5}`:                                   "answer: 0.5 is out of range",
		`{"question": "q", "choices": ["x", "y"], "answer": null}`:                                  "answer is null; questions without an answer cannot be measured",
		`{"question": null, "choices": ["x", "y"], "answer": 1}`:                                    "question is null",
		`{"ctx": "q", "endings": ["x", "y"], "label": null}`:                                        "label is null",
		`{"question": "q", "choices": ["x", "y"], "answer": [1]}`:                                   "want the number of a choice",
		`{"question": {"stem": "q"}, "answerKey": "B"}`:                                             "has no question, choices and answer",
		`{"question": "q", "choices": ["x", "y"], "answer": "C"}`:                                   `"C" is none of the choices`,
		`{"question": "q", "choices": ["x"], "answer": 0}`:                                          "choices: 1 choices, want 2 to 64",
		`{"question": "q", "choices": ["x", ""], "answer": 0}`:                                      "choice 1 is empty",
		`{"question": "q", "choices": 7, "answer": 0}`:                                              "want a list of texts",
		`{"question": 7, "choices": ["x", "y"], "answer": 0}`:                                       "question is no text",
		`{"question": "q", "choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"}`:      "2 texts have 1 labels",
		`{"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "C"]}, "answerKey": "B"}`: `"B" is none of the choices`,
		`{"question": "q", "choices": ["x", "y"]}`:                                                  "has no question, choices and answer; want {",
		`[]`:               "want {",
		`{"question": "q"`: "unexpected end of JSON",
	} {
		name := filepath.Join(t.TempDir(), "arc.jsonl")
		text := `{"question": "q", "choices": ["x", "y"], "answer": 1}` + "\n\n" + line
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadTask(name, ""); err == nil || !strings.HasPrefix(err.Error(), name+":3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
	name := filepath.Join(t.TempDir(), "arc.jsonl")
	if err := os.WriteFile(name, []byte(`{"question": "q", "choices": ["x", "y"], "answer": 1}`), 0o666); err != nil {
		t.Fatal(err)
	}
	if task, err := ReadTask(name, "Q: {question}\nA:"); err != nil || task.Name != "arc" || task.Questions[0].Text != "Q: q\nA:" {
		t.Errorf("%v %v", task, err)
	}
	// A long line costs no more than is read of it.
	if err := os.Truncate(name, 1<<36); err != nil {
		t.Fatal(err)
	}
	frugal.Run(t, 4<<20, func() {
		if _, err := ReadTask(name, ""); err == nil || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("a huge line: %v", err)
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte(`{"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}`))
	f.Add([]byte(`{"ctx": "q", "endings": ["x", "y"], "label": "1"}`))
	f.Add([]byte(`{"question": null, "choices": null, "answer": null}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		q, err := parseQuestion(line)
		if err == nil && (len(q.Choices) < 2 || q.Answer < 0 || q.Answer >= len(q.Choices)) {
			t.Errorf("%+v", q)
		}
	})
}
