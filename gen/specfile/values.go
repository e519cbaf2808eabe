package specfile

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// CheckValues says what the YAML library would take for something else, or for
// nothing, without a word. Every key that is there has a value of its kind:
//
//	whole numbers  decimal, without a leading zero: 60, -1, 1e3
//	numbers        the same, and fractions: 0.5, .5, 6e-4
//	truth          true or false
//	text           bare or in quotes; what reads as a number or as truth only in quotes
//	lists and maps of these
//
// An empty value or null is none of them: a key that is to have its default is
// left out. v has the schema; errors have the file's name, line and column.
func CheckValues(name string, src []byte, v any) error {
	doc, err := parser.ParseBytes(src, 0)
	if err != nil {
		return nil // decoding says so, better
	}
	for _, d := range doc.Docs {
		if d.Body == nil {
			continue
		}
		if err := checkValue(d.Body, reflect.TypeOf(v)); err != nil {
			return SyntaxError(name, err)
		}
	}
	return nil
}

// CheckSection is CheckValues for a section of a larger document, or for none; its
// errors are the YAML library's, with line and column.
func CheckSection(n ast.Node, v any) error {
	if n == nil {
		return nil
	}
	return checkValue(n, reflect.TypeOf(v))
}

// valueError is worded as the YAML library words its own.
func valueError(t *token.Token, format string, args ...any) error {
	return fmt.Errorf("[%d:%d] %s", t.Position.Line, t.Position.Column, fmt.Sprintf(format, args...))
}

// checkValue looks at a value and at those in it. The type is that of a section
// or a list: what is neither is looked at with its key.
func checkValue(n ast.Node, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	m, ok := n.(ast.MapNode)
	if !ok || t.Kind() != reflect.Struct {
		return nil // decoding says so
	}
	for at := m.MapRange(); at.Next(); {
		key := keyOf(at.Key())
		if at.Key().IsMergeKey() {
			return valueError(at.Key().GetToken(), "merge keys (<<) are not taken; write the values where they are wanted")
		}
		f, ok := fieldOf(t, key)
		if !ok {
			continue // decoding says so
		}
		if err := checkField(key, at.Key().GetToken(), at.Value(), f); err != nil {
			return err
		}
	}
	return nil
}

// checkField looks at the value of a key.
func checkField(key string, at *token.Token, n ast.Node, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n == nil || n.Type() == ast.NullType {
		return valueError(at, "%s: is empty, want %s; leave the key out for its default", key, wanted(t))
	}
	if _, ok := n.(*ast.SequenceNode); ok && t == reflect.TypeFor[MLP]() {
		t = reflect.TypeFor[[]LayerMLP]()
	}
	switch t.Kind() {
	case reflect.Struct:
		return checkValue(n, t)
	case reflect.Slice:
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			return valueError(n.GetToken(), "%s: %s is no list, want %s", key, written(n), wanted(t))
		}
		for _, entry := range list.Values {
			if err := checkField(key, n.GetToken(), entry, t.Elem()); err != nil {
				return err
			}
		}
		return nil
	case reflect.Interface: // a section whose schema is known elsewhere
		return nil
	}
	if is := otherThan(t.Kind(), n); is != "" && !(t == reflect.TypeFor[Layers]() && otherThan(reflect.Int, n) == "") {
		return valueError(n.GetToken(), "%s: %s is %s, want %s", key, written(n), is, wanted(t))
	}
	return nil
}

var (
	decimal  = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	fraction = regexp.MustCompile(`^-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$`)
)

// otherThan says what a value is, if it is not of a kind.
func otherThan(kind reflect.Kind, n ast.Node) string {
	s, isText := "", false
	switch n := n.(type) {
	case *ast.StringNode:
		s = n.Value // bare 1e3 is text to the parser, which decoding takes for a number
		isText = quoted(n) || !fraction.MatchString(s)
	case *ast.LiteralNode:
		isText = true
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode, *ast.BoolNode:
		s = n.GetToken().Value
	default:
		return "a list or a section"
	}
	_, isTruth := n.(*ast.BoolNode)
	switch kind {
	case reflect.String:
		if isTruth {
			return "a truth value"
		}
		if !isText {
			return "a number"
		}
	case reflect.Bool:
		if !isTruth {
			return "no truth value"
		}
	case reflect.Float64:
		x, err := strconv.ParseFloat(s, 64)
		if isText || isTruth || !fraction.MatchString(s) || err != nil || math.IsInf(x, 0) {
			return "no number in decimal"
		}
	case reflect.Int, reflect.Uint64:
		x, err := strconv.ParseFloat(s, 64)
		switch {
		case isText || isTruth || !fraction.MatchString(s) || err != nil || x != math.Trunc(x):
			return "no whole number in decimal"
		case kind == reflect.Uint64 && x < 0:
			return "less than 0"
		case !decimal.MatchString(s):
			if math.Abs(x) >= 1<<53 {
				return "too large to be exact"
			}
		case kind == reflect.Int:
			_, err = strconv.ParseInt(s, 10, 64)
		default:
			_, err = strconv.ParseUint(s, 10, 64)
		}
		if err != nil {
			return "out of range"
		}
	}
	return ""
}

// wanted says what a key takes.
func wanted(t reflect.Type) string {
	if t == reflect.TypeFor[Layers]() {
		return wantedLayers
	}
	switch t.Kind() {
	case reflect.Slice:
		return "a list, [...]"
	case reflect.String:
		return "text, in quotes where it reads as something else"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number such as 0.5 or 6e-4, without quotes or leading zeros"
	case reflect.Int, reflect.Uint64:
		return "a number such as 60, without quotes or leading zeros"
	}
	return "a section"
}

// written is a value as it stands in the file, in quotes where it does.
func written(n ast.Node) string {
	const most = 40
	s := "the value"
	switch n := n.(type) {
	case *ast.StringNode:
		if s = n.Value; quoted(n) {
			s = strconv.Quote(s)
		}
	case *ast.LiteralNode:
		s = strconv.Quote(n.Value.Value)
	case ast.ScalarNode:
		s = n.GetToken().Value
	}
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " ..."
	}
	return s
}

func quoted(n *ast.StringNode) bool {
	return n.Token.Type == token.DoubleQuoteType || n.Token.Type == token.SingleQuoteType
}

// keyOf is the text of a key.
func keyOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingKeyNode:
		return keyOf(n.Value)
	case *ast.StringNode:
		return n.Value
	}
	return n.GetToken().Value
}

// fieldOf is the type of a key's value in a section.
func fieldOf(t reflect.Type, key string) (reflect.Type, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name == key {
			return f.Type, true
		}
	}
	return nil, false
}
