package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"math/big"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/structuredffn/sffn/gen/spec"
)

var update = flag.Bool("update", false, "write the tables of docs/config.md")

const configPage = "../../docs/config.md"

// key is a key of the schema, as the page shows it.
type key struct {
	path string // model.mlp.rank, model.mlp.except[].rank
	kind reflect.Kind
	list bool // of such values
	// does, unit, limits and initial are text with the names of other keys in
	// backquotes.
	does, unit, limits, initial string
}

// required is the initial of a key that has none.
const required = "required"

// schema lists all keys, with what the comments on their fields say.
func schema(t *testing.T) []key {
	t.Helper()
	comments := map[string]*ast.Field{} // by type and field
	for _, name := range []string{"../../gen/specfile/model.go", "../../gen/specfile/mlp.go", "train.go"} {
		source, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(source, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					for _, f := range s.Fields.List {
						if len(f.Names) == 1 {
							comments[spec.Name.Name+"."+f.Names[0].Name] = f
						}
					}
				}
			}
			return true
		})
	}
	s := &scribe{t: t, comments: comments, names: map[string]string{}}
	d := defaults()
	s.name(reflect.TypeOf(d))
	s.section("model", reflect.ValueOf(*d.Model))
	s.section("train", reflect.ValueOf(*d.Train))
	return s.keys
}

// scribe walks through the schema.
type scribe struct {
	t        *testing.T
	comments map[string]*ast.Field
	names    map[string]string // of keys, by field
	keys     []key
}

// name notes the names of a section's keys.
func (s *scribe) name(section reflect.Type) {
	for i := range section.NumField() {
		f := section.Field(i)
		if !f.IsExported() {
			continue
		}
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); s.names[f.Name] == "" {
			s.names[f.Name] = name
		}
		if of, _ := under(f.Type); of.Kind() == reflect.Struct {
			s.name(of)
		}
	}
}

// under is the type of a key's value, or of the entries of its list.
func under(t reflect.Type) (of reflect.Type, list bool) {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		return t.Elem(), t.Kind() == reflect.Slice
	}
	return t, false
}

func (s *scribe) section(path string, v reflect.Value) {
	if u, ok := v.Interface().(Guide); ok { // with defaults of its own, where it is
		if err := yaml.Unmarshal([]byte("{}"), &u); err != nil {
			s.t.Fatal(err)
		}
		v = reflect.ValueOf(u)
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		of, list := under(f.Type)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		k := key{path: path + "." + name, kind: of.Kind(), list: list}
		c := s.comments[v.Type().Name()+"."+f.Name]
		if c == nil || c.Doc.Text() == "" {
			s.t.Errorf("%s: the field %s has no comment", k.path, f.Name)
			continue
		}
		text := strings.Join(strings.Fields(c.Doc.Text()), " ")
		for _, start := range []string{f.Name + " is ", f.Name + " "} {
			text = strings.TrimPrefix(text, start)
		}
		k.does = s.quote(text)
		k.does = strings.ToUpper(k.does[:1]) + k.does[1:]
		parts := strings.Split(s.quote(strings.TrimSpace(c.Comment.Text())), "; ")
		switch {
		case k.kind == reflect.Bool:
			k.limits, k.initial = "true, false", parts[0]
		case parts[0] == "" || len(parts) > 3:
			s.t.Errorf("%s: behind its field stands %q, want its range, or its unit, range and default", k.path, c.Comment.Text())
		case k.kind == reflect.Struct:
			k.initial = parts[0]
		case len(parts) == 1:
			k.limits = parts[0]
		default:
			k.unit, k.limits = parts[0], parts[1]
			k.initial = strings.Join(parts[2:], "")
		}
		if k.initial == "" {
			k.initial = value(v.Field(i))
			if k.initial == "" || k.initial == "0" && strings.HasPrefix(k.limits, "1 to") {
				k.initial = required
			}
		}
		s.keys = append(s.keys, k)
		if k.kind == reflect.Struct {
			at := v.Field(i)
			if list {
				at = reflect.New(of).Elem()
				k.path += "[]"
			}
			s.section(k.path, at)
		}
	}
}

var word = regexp.MustCompile(`\b[A-Z]\w+`)

// lists are names that the comments leave to the tables of kinds and activations.
var lists = strings.NewReplacer(
	"{kinds}", spec.Names(spec.Kinds(), ""), "{acts}", spec.Names(spec.Acts(), ""),
	"{ranked}", spec.Names(spec.Ranked(), "and"), "{blocked}", spec.Names(spec.Blocked(), "and"), "{split}", spec.Names(spec.Split(), "and"), "{rated}", spec.Names(spec.Rated(), "and"),
	"{gated}", spec.Names(slices.DeleteFunc(spec.Acts(), func(a spec.Act) bool { return !a.Gated() }), "or"))

// quote puts keys in the place of fields, and names in that of their lists.
func (s *scribe) quote(text string) string {
	text = lists.Replace(text)
	return word.ReplaceAllStringFunc(text, func(w string) string {
		if name, ok := s.names[w]; ok {
			return "`" + name + "`"
		}
		return w
	})
}

// value is a value as a file has it.
func value(v reflect.Value) string {
	if v.Kind() == reflect.Float64 {
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}

// table is what the page shows of a section.
func table(keys []key, section string) string {
	b := &strings.Builder{}
	b.WriteString("\n| key | type | default | unit | range | what it does |\n|---|---|---|---|---|---|\n")
	types := map[reflect.Kind]string{reflect.Int: "integer", reflect.Uint64: "integer", reflect.Float64: "number",
		reflect.Bool: "boolean", reflect.String: "string", reflect.Struct: "section"}
	for _, k := range keys {
		name, ok := strings.CutPrefix(k.path, section+".")
		if !ok {
			continue
		}
		of := types[k.kind]
		if k.list {
			of = "list of " + of + "s"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s | %s |\n", name, of, k.initial, k.unit, k.limits, k.does)
	}
	return b.String() + "\n"
}

// The page's tables are those of the code, and its examples are configurations.
func TestConfigPage(t *testing.T) {
	keys := schema(t)
	text, err := os.ReadFile(configPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, section := range []string{"model", "train"} {
		begin, end := "<!-- "+section+" -->\n", "<!-- end -->"
		before, rest, ok1 := strings.Cut(page, begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok1 || !ok2 {
			t.Fatalf("%s has no %s ... %s", configPage, begin, end)
		}
		page = before + begin + table(keys, section) + end + after
	}
	if *update {
		if err := os.WriteFile(configPage, []byte(page), 0o666); err != nil {
			t.Fatal(err)
		}
	} else if page != string(text) {
		t.Errorf("%s is stale: go test ./model/config -run ConfigPage -update", configPage)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1)
	var configs []*Config
	for _, e := range examples {
		c, err := Parse(configPage, []byte(e[1]))
		if err != nil {
			t.Fatal(err)
		}
		configs = append(configs, c)
	}
	if n := len(configs); n < 3 || !configs[n-1].SameRun(configs[n-2]) {
		t.Errorf("the page's %d examples do not end with one model in two ways", n)
	}
}

// settings are the values of a file by key.
type settings map[string]string

// minimal has what is required, and what a key needs to have an effect.
func minimal(path string) settings {
	s := settings{"model.vocab": "257", "model.hidden": "64", "model.ffn": "256", "model.layers": "2", "model.q_heads": "4"}
	if strings.HasPrefix(path, "train.guide.") || path == "model.mlp.first_layer_dense" {
		s = s.with("model.mlp.kind", "lowrank", "model.mlp.rank", "16")
	}
	if strings.HasPrefix(path, "train.guide.") {
		s["train.guide"] = "{}"
	}
	if strings.HasPrefix(path, "model.rotary_scaling.") {
		s = s.with("model.rotary_scaling.type", "llama3", "model.rotary_scaling.factor", "8", "model.rotary_scaling.low_freq_factor", "1",
			"model.rotary_scaling.high_freq_factor", "4", "model.rotary_scaling.original_max_positions", "8192")
		if name := strings.TrimPrefix(path, "model.rotary_scaling."); slices.Contains([]string{"beta_fast", "beta_slow", "attention_factor", "truncate"}, name) {
			s = s.with("model.rotary_scaling.type", "yarn", "model.rotary_scaling.low_freq_factor", "", "model.rotary_scaling.high_freq_factor", "")
		}
	}
	if path == "model.window_layers" {
		s["model.window"] = "7"
	}
	if strings.HasPrefix(path, "model.mlp.except[].") {
		s = s.with("model.mlp.kind", "lowrank", "model.mlp.rank", "16", "model.mlp.first_layer_dense", "false", "model.mlp.except[].layers", "1", "model.mlp.except[].kind", "dense")
	}
	return s
}

// with is a copy with other values; an empty one leaves the key out.
func (s settings) with(pairs ...string) settings {
	s = maps.Clone(s)
	for i := 0; i < len(pairs); i += 2 {
		if s[pairs[i]] = pairs[i+1]; pairs[i+1] == "" {
			delete(s, pairs[i])
		}
	}
	return s
}

func (s settings) parse() (*Config, error) {
	tree := map[string]any{}
	for _, path := range slices.Sorted(maps.Keys(s)) {
		at, parts := tree, strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] { // a list, such as except[], has one entry
			next, ok := at[p].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[p] = next
			}
			at = next
		}
		at[parts[len(parts)-1]] = s[path]
	}
	return Parse("probe.yaml", []byte(flow(tree)))
}

// flow writes sections in braces.
func flow(v any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return v.(string)
	}
	b := &strings.Builder{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		if name, ok := strings.CutSuffix(k, "[]"); ok {
			b.WriteString(name + ": [" + flow(m[k]) + "]")
			continue
		}
		b.WriteString(k + ": " + flow(m[k]))
	}
	return "{" + b.String() + "}"
}

// initials are defaults that depend on other keys: what to write for them.
var initials = map[string]func(s settings) string{
	"`hidden`":  func(s settings) string { return s["model.hidden"] },
	"`q_heads`": func(s settings) string { return s["model.q_heads"] },
	"256 or `max_positions`, the smaller": func(s settings) string {
		if n, err := strconv.Atoi(s["model.max_positions"]); err == nil {
			return strconv.Itoa(min(256, n))
		}
		return "256"
	},
	"`bias`": func(s settings) string {
		if s["model.bias"] == "" {
			return "true"
		}
		return s["model.bias"]
	},
	"none": func(settings) string { return "0" },
	"all":  func(settings) string { return "0-1" },
	"1 and a tenth of `factor`'s logarithm": func(s settings) string {
		factor, _ := strconv.ParseFloat(s["model.rotary_scaling.factor"], 64)
		return strconv.FormatFloat(spec.YarnAttentionFactor(factor), 'g', -1, 64)
	},
}

// A key's default, written out, is what a file without the key has. Keys without
// a default are missed.
func TestConfigDefaults(t *testing.T) {
	for _, k := range schema(t) {
		if k.kind == reflect.Struct {
			continue
		}
		files := []settings{minimal(k.path)}
		switch k.path {
		case "train.seq":
			files = append(files, files[0].with("model.max_positions", "100"), files[0].with("model.max_positions", "256"))
		case "model.attn_dim":
			files = append(files, files[0].with("model.hidden", "128"))
		case "model.kv_heads":
			files = append(files, files[0].with("model.q_heads", "8"))
		case "model.qkv_bias", "model.output_bias", "model.ffn_bias":
			files = append(files, files[0].with("model.bias", "false"))
		}
		for _, s := range files {
			without, err := s.with(k.path, "").parse()
			if k.initial == required {
				wantField(t, k, "(left out)", "", err)
				continue
			}
			if err != nil {
				t.Errorf("%s left out: %v", k.path, err)
				continue
			}
			v := k.initial
			if f := initials[v]; f != nil {
				v = f(s)
			}
			with, err := s.with(k.path, v).parse()
			if err != nil {
				t.Errorf("%s: %s, its default: %v", k.path, v, err)
			} else if !same(with, without) {
				t.Errorf("%s: %s is not what a file without it has: %+v, %+v", k.path, v, with, without)
			}
		}
	}
}

func same(c, d *Config) bool { return c.Model == d.Model && c.Train == d.Train }

// wantField fails where err is not about a key, or the one of that name.
func wantField(t *testing.T, k key, value, name string, err error) {
	t.Helper()
	if name == "" {
		name = k.path[strings.LastIndex(k.path, ".")+1:]
	}
	if err == nil {
		t.Errorf("%s: %s is taken, the page has %s", k.path, value, k.limits)
	} else if !strings.Contains(err.Error(), name+": ") {
		t.Errorf("%s: %s is refused for another key: %v", k.path, value, err)
	}
}

// room is what other keys need for the ends of a range.
var room = map[string]settings{
	"model.hidden":     {"model.attn_dim": "64"},
	"model.attn_dim":   {"model.q_heads": "1", "model.position": "absolute"},
	"model.q_heads":    {"model.attn_dim": "1048576", "model.kv_heads": "1", "model.position": "absolute"},
	"model.kv_heads":   {"model.attn_dim": "1048576", "model.q_heads": "1048576", "model.position": "absolute"},
	"train.batch":      {"train.seq": "1"},
	"train.accumulate": {"train.seq": "1"},
}

// probe is a value, and what other keys have beside it.
type probe struct {
	value string
	taken bool
	room  settings
	// by is the key that the error names, where that is another one.
	by string
}

func takes(value string, room settings) probe   { return probe{value: value, taken: true, room: room} }
func refuses(value string, room settings) probe { return probe{value: value, room: room} }

func lowrank(ffn string) settings {
	return settings{"model.mlp.kind": "lowrank", "model.mlp.rank": "1", "model.ffn": ffn}
}
func blockdense(rank, blocks string) settings {
	return settings{"model.mlp.kind": "blockdense", "model.mlp.rank": rank, "model.mlp.blocks": blocks}
}
func blockshuffle(ffn string) settings {
	return settings{"model.mlp.kind": "blockshuffle", "model.mlp.blocks": "1", "model.ffn": ffn}
}

var btt = settings{"model.mlp.kind": "btt", "model.mlp.rank": "1", "model.ffn": "256"}

var blast = settings{"model.mlp.kind": "blast", "model.mlp.rank": "1", "model.mlp.blocks": "4", "model.ffn": "256"}

var linear = settings{"model.rotary_scaling.low_freq_factor": "0", "model.rotary_scaling.high_freq_factor": "0", "model.rotary_scaling.original_max_positions": "0"}

// inEntry has settings of the section mlp in an exception instead.
func inEntry(s settings) settings {
	to := settings{}
	for path, v := range s {
		to[strings.Replace(path, "model.mlp.", "model.mlp.except[].", 1)] = v
	}
	return to
}

// entries are the probes of exceptions where a key of mlp has these.
func entries(ps []probe) (to []probe) {
	for _, p := range ps {
		p.room = inEntry(p.room)
		to = append(to, p)
	}
	return to
}

func init() {
	for of, ps := range worded {
		if strings.HasPrefix(of, "1 to 2^20, for ") {
			worded["as `mlp.rank`"] = entries(ps)
		} else if strings.HasPrefix(of, "divisors of `hidden` and") {
			worded["as `mlp.blocks`"] = entries(ps)
		}
	}
	for key, width := range map[string]string{"hidden_split": "hidden", "ffn_split": "ffn"} {
		worded["as `mlp."+key+"`"] = entries(worded["divisors of `"+width+"`"])
	}
}

var six = settings{"train.accumulate": "6"}

// worded are the probes of ranges that are more than two ends.
var worded = map[string][]probe{
	"a layer, `3`, or several, `0-3`": {
		takes("0", nil), takes("1", nil), takes("0-1", nil), refuses("2", nil), refuses("1-2", nil), refuses("1-0", nil), refuses("-1", nil),
		refuses("01", nil), refuses("1e0", nil), refuses("many", nil), refuses("0-", nil), refuses("0-1-1", nil),
	},
	"1 to 2^20, for lowrank to `hidden` or `ffn`, the smaller, for blockdense multiples of `blocks`": {
		takes("1", lowrank("256")), takes("64", lowrank("256")), refuses("0", lowrank("256")), refuses("65", lowrank("256")),
		takes("32", lowrank("32")), refuses("33", lowrank("32")),
		takes("4", blockdense("4", "4")), takes("1048576", blockdense("4", "4")), refuses("0", blockdense("4", "4")),
		refuses("1048580", blockdense("4", "4")), refuses("16", blockshuffle("256")), refuses("16", nil),
	},
	"divisors of `hidden` and `ffn`, for blockdense also of `rank`": {
		takes("1", blockdense("16", "1")), takes("16", blockdense("16", "1")), refuses("3", blockdense("3", "1")),
		refuses("32", blockdense("16", "1")), refuses("0", blockdense("16", "1")),
		takes("1", blockshuffle("256")), takes("64", blockshuffle("256")), refuses("128", blockshuffle("256")),
		refuses("64", blockshuffle("96")), takes("32", blockshuffle("96")), refuses("0", blockshuffle("256")), refuses("-1", blockshuffle("256")),
		refuses("2", lowrank("256")), refuses("2", nil),
	},
	"numbers and stretches from 0 on, `0-3 5`": {
		takes("0", nil), takes("1", nil), takes("0-1", nil), refuses("2", nil), refuses("0-2", nil), refuses("1-0", nil), refuses("-1", nil),
		refuses("many", nil), refuses("0 01", nil), refuses("0-1-1", nil), {value: "1", room: settings{"model.window": "0"}},
	},
	"linear, llama3, yarn": {
		takes("llama3", nil), takes("linear", linear), takes("yarn", linear.with("model.rotary_scaling.original_max_positions", "8192")), refuses("other", nil), refuses("''", nil),
		{value: "yarn", by: "low_freq_factor"},
		{value: "linear", by: "low_freq_factor"}, {value: "linear", room: linear.with("model.rotary_scaling.original_max_positions", "8192"), by: "original_max_positions"},
	},
	"above 0, below `high_freq_factor`": {takes("5e-324", nil), takes("3.9999999999999996", nil), {value: "4", by: "high_freq_factor"}, refuses("0", nil), refuses("-1", nil)},
	"above 0, below `beta_fast`":        {takes("5e-324", nil), takes("31.999999999999996", nil), {value: "32", by: "beta_fast"}, refuses("0", nil), refuses("-1", nil)},
	"above `beta_slow`":                 {takes("1.0000000000000002", nil), takes("1.7976931348623157e308", nil), refuses("1", nil), refuses("0.5", nil), refuses("-1", nil)},
	"above `low_freq_factor`":           {takes("1.0000000000000002", nil), takes("1.7976931348623157e308", nil), refuses("1", nil), refuses("0.5", nil), refuses("-1", nil)},
	"divisors of `hidden`":              {takes("1", btt), takes("64", btt), takes("0", btt), refuses("3", btt), refuses("128", btt), refuses("-1", btt), refuses("2", nil)},
	"divisors of `accumulate` up to 65536": {takes("0", six), takes("1", six), takes("6", six), refuses("4", six), refuses("12", six), refuses("-1", six), refuses("2", nil),
		takes("65536", settings{"train.accumulate": "131072"}), refuses("131072", settings{"train.accumulate": "131072"})},
	"divisors of `ffn`": {takes("1", btt), takes("256", btt), takes("0", btt), refuses("3", btt), refuses("512", btt), refuses("-1", btt), refuses("2", nil)},
}

var (
	between = regexp.MustCompile("^(\\S+) to ([^ ,]+)(, a (divisor|multiple) of `\\w+`)?$")
	above   = regexp.MustCompile(`^above 0(, at most (\S+))?$`)
	power   = regexp.MustCompile(`^2\^(-?\d+)(-1)?$`)
	words   = regexp.MustCompile(`^\w+(, \w+)+$`)
)

// probes are the values to try for a range: both ends and the values next to them.
func probes(t *testing.T, k key) []probe {
	t.Helper()
	whole := k.kind != reflect.Float64
	if p, ok := worded[k.limits]; ok {
		return p
	}
	if m := between.FindStringSubmatch(k.limits); m != nil {
		lo, hi := number(t, k, m[1]), number(t, k, m[2])
		ps := []probe{takes(beside(lo, 0, whole), room[k.path]), takes(beside(hi, 0, whole), room[k.path]),
			refuses(beside(lo, -1, whole), room[k.path]), refuses(beside(hi, +1, whole), room[k.path])}
		switch m[4] { // of 64 and of 4
		case "divisor":
			ps = append(ps, refuses("3", nil), takes("2", nil))
		case "multiple":
			ps = append(ps, probe{value: "65", by: "q_heads"}, takes("72", nil))
		}
		return ps
	}
	if m := above.FindStringSubmatch(k.limits); m != nil && !whole {
		ps := []probe{takes("5e-324", nil), refuses("0", nil), refuses("-5e-324", nil)}
		if m[2] == "" {
			return append(ps, takes("1.7976931348623157e308", nil), refuses("1e309", nil))
		}
		hi := number(t, k, m[2])
		return append(ps, takes(beside(hi, 0, whole), nil), refuses(beside(hi, +1, whole), nil))
	}
	if words.MatchString(k.limits) {
		ps := []probe{refuses("other", nil)}
		if k.kind == reflect.Bool {
			ps = append(ps, refuses("1", nil), refuses("yes", nil))
		}
		for _, w := range strings.Split(k.limits, ", ") {
			ps = append(ps, takes(w, nil))
			if strings.HasSuffix(k.path, ".kind") { // each kind with what it needs
				room := map[string]settings{"lowrank": lowrank("256"), "blockdense": blockdense("4", "4"),
					"blockshuffle": blockshuffle("256"), "btt": btt, "blast": blast}[w]
				if k.path != "model.mlp.kind" {
					room = inEntry(room)
				}
				ps[len(ps)-1].room = room
			}
		}
		return ps
	}
	t.Errorf("%s: nobody knows how to probe the range %q", k.path, k.limits)
	return nil
}

// number reads 60, 1e-12, 2^40, 2^64-1 or the default of max_positions.
func number(t *testing.T, k key, text string) *big.Float {
	t.Helper()
	if text == "`max_positions`" {
		text = value(reflect.ValueOf(defaults().Model.MaxPositions))
	}
	if m := power.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatalf("%s: %q is no number", k.path, text)
		}
		x := new(big.Float).SetMantExp(big.NewFloat(1), n).SetPrec(200)
		if m[2] != "" {
			x.Sub(x, big.NewFloat(1))
		}
		return x
	}
	x, _, err := big.ParseFloat(text, 10, 200, big.ToNearestEven)
	if err != nil {
		t.Fatalf("%s: %q is no number", k.path, text)
	}
	return x
}

// beside is x, or the number before or after it, as a file has it.
func beside(x *big.Float, step int, whole bool) string {
	if whole {
		n, _ := x.Int(nil)
		return n.Add(n, big.NewInt(int64(step))).String()
	}
	v, _ := x.Float64()
	if step != 0 {
		v = math.Nextafter(v, math.Inf(step))
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// The ends of each range are taken and differ, the values next to them are not.
// Of words, those that the code knows are those of the page.
func TestConfigRanges(t *testing.T) {
	tried := 0
	for _, k := range schema(t) {
		if k.kind == reflect.Struct {
			continue
		}
		var taken []*Config
		for _, p := range probes(t, k) {
			s := minimal(k.path)
			for path, v := range p.room {
				s[path] = v
			}
			c, err := s.with(k.path, p.value).parse()
			tried++
			switch {
			case !p.taken:
				wantField(t, k, p.value, p.by, err)
				if p.value == "other" && k.kind == reflect.String && err != nil && !strings.HasSuffix(err.Error(), "; valid are "+k.limits) {
					t.Errorf("%s: the page has %s, the code says %v", k.path, k.limits, err)
				}
			case err != nil:
				t.Errorf("%s: %s, of %s: %v", k.path, p.value, k.limits, err)
			case len(p.room) == 0 || worded[k.limits] == nil:
				for _, d := range taken {
					if same(c, d) {
						t.Errorf("%s: %s changes nothing", k.path, p.value)
					}
				}
				taken = append(taken, c)
			}
		}
	}
	if tried < 150 {
		t.Errorf("only %d values were tried", tried)
	}
}
