package hf

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// decoder turns the text of a token into the bytes that it stands for.
type decoder struct {
	steps []func(token []byte) []byte
	// prefixed says that a space before the whole text is left out.
	prefixed bool
	// byteLevel says that tokens spell bytes.
	byteLevel bool
}

func (d *decoder) decode(token string) []byte {
	text := []byte(token)
	for _, step := range d.steps {
		text = step(text)
	}
	return text
}

// newDecoder reads the field decoder. Tokens are decoded one by one, so what
// looks at several of them is an error, but for what amounts to the same.
func newDecoder(v value) (*decoder, error) {
	d := &decoder{}
	if v.null() {
		// The library puts spaces between tokens.
		d.prefixed = true
		d.steps = append(d.steps, func(token []byte) []byte { return append([]byte{' '}, token...) })
		return d, nil
	}
	parts, err := v.flatten("decoders")
	if err != nil {
		return nil, err
	}
	fused := false // tokens are one text from here
	times := growth(1)
	for _, part := range parts {
		kind, err := part.kind()
		if err != nil {
			return nil, err
		}
		var step func([]byte) []byte
		switch kind {
		case "ByteLevel":
			if _, err := part.object("type", "add_prefix_space", "trim_offsets", "use_regex"); err != nil {
				return nil, err
			}
			if fused {
				return nil, part.errorf("ByteLevel behind what joins tokens is not supported")
			}
			step, fused, d.byteLevel = fromSpelling, true, true
		case "Fuse":
			if _, err := part.object("type"); err != nil {
				return nil, err
			}
			fused = true
			continue
		case "ByteFallback":
			if _, err := part.object("type"); err != nil {
				return nil, err
			}
			if fused {
				return nil, part.errorf("ByteFallback behind what joins tokens is not supported")
			}
			step = fromByte
		case "Metaspace":
			m, err := newMetaspace(part)
			if err != nil {
				return nil, err
			}
			if fused {
				return nil, part.errorf("Metaspace behind what joins tokens is not supported")
			}
			d.prefixed = d.prefixed || m.prepend != prependNever
			step = func(token []byte) []byte { return bytes.ReplaceAll(token, m.replacement, []byte{' '}) }
		case "Replace":
			r, err := newReplace(part)
			if err != nil {
				return nil, err
			}
			if fused && (r.expr != nil || utf8.RuneCount(r.text) != 1) {
				return nil, part.errorf("Replace of more than one character behind what joins tokens is not supported")
			}
			if err := times.by(part, r.growth()); err != nil {
				return nil, err
			}
			step = func(token []byte) []byte {
				out, _ := r.normalize(nil, token)
				return out
			}
		case "Strip":
			o, err := part.object("type", "content", "start", "stop")
			if err != nil {
				return nil, err
			}
			content, err := o.char("content")
			if err != nil {
				return nil, err
			}
			start, err := o.number("start")
			if err != nil {
				return nil, err
			}
			stop, err := o.number("stop")
			if err != nil {
				return nil, err
			}
			switch {
			case fused && start == 1 && stop == 0 && content == ' ':
				d.prefixed = true
				continue
			case fused && start+stop > 0:
				return nil, part.errorf("Strip behind what joins tokens is not supported, but for one space at the beginning")
			}
			char := utf8.AppendRune(nil, content)
			step = func(token []byte) []byte {
				for n := start; n > 0 && bytes.HasPrefix(token, char); n-- {
					token = token[len(char):]
				}
				for n := stop; n > 0 && bytes.HasSuffix(token, char); n-- {
					token = token[:len(token)-len(char)]
				}
				return token
			}
		default:
			return nil, part.errorf("decoder %.60q is not supported; these are: Sequence, ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip", kind)
		}
		d.steps = append(d.steps, step)
	}
	return d, nil
}

// fromSpelling returns the bytes that characters stand for, and a token that has
// others as it is.
func fromSpelling(token []byte) []byte {
	if text, ok := unspell(token); ok {
		return text
	}
	return token
}

// fromByte returns the byte of a token such as <0x0A>. The library makes several
// of them U+FFFD where together they are not UTF-8; here bytes stay.
func fromByte(token []byte) []byte {
	if len(token) == 6 && bytes.HasPrefix(token, []byte("<0x")) && token[5] == '>' {
		if b, err := strconv.ParseUint(string(token[3:5]), 16, 8); err == nil {
			return []byte{byte(b)}
		}
	}
	return token
}
