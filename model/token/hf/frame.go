package hf

import "slices"

// frame reads the field post_processor: the ids that stand before and behind a
// text. What concerns pairs of texts and offsets is left alone.
func frame(v value) (before, after []int32, err error) {
	parts, err := v.flatten("processors")
	if err != nil {
		return nil, nil, err
	}
	for _, part := range parts {
		var b, a []int32
		kind, err := part.kind()
		if err != nil {
			return nil, nil, err
		}
		switch kind {
		case "ByteLevel":
			_, err = part.object("type", "add_prefix_space", "trim_offsets", "use_regex")
		case "TemplateProcessing":
			b, a, err = template(part)
		case "BertProcessing":
			b, a, err = ends(part, "type", "sep", "cls")
		case "RobertaProcessing":
			b, a, err = ends(part, "type", "sep", "cls", "trim_offsets", "add_prefix_space")
		default:
			err = part.errorf("post-processor %.60q is not supported; these are: Sequence, ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing", kind)
		}
		if err != nil {
			return nil, nil, err
		}
		before, after = slices.Concat(b, before), slices.Concat(after, a)
	}
	return before, after, nil
}

// ends reads the tokens that Bert's and Roberta's kind puts before and behind.
func ends(v value, fields ...string) (before, after []int32, err error) {
	o, err := v.object(fields...)
	if err != nil {
		return nil, nil, err
	}
	for key, ids := range map[string]*[]int32{"cls": &before, "sep": &after} {
		pair, err := o.get(key).list()
		if err != nil {
			return nil, nil, err
		}
		if len(pair) != 2 {
			return nil, nil, o.get(key).errorf("has %d elements, want a token and its id", len(pair))
		}
		id, err := pair[1].id()
		if err != nil {
			return nil, nil, err
		}
		*ids = []int32{id}
	}
	return before, after, nil
}

// id returns a number that is an id.
func (v value) id() (id int32, err error) {
	if err := v.decode(&id, "an id"); err != nil {
		return 0, err
	}
	if id < 0 || id >= maxIDs {
		return 0, v.errorf("is %d, want an id", id)
	}
	return id, nil
}

// maxFrame bounds the ids around a text.
const maxFrame = 1 << 10

func template(v value) (before, after []int32, err error) {
	o, err := v.object("type", "single", "pair", "special_tokens")
	if err != nil {
		return nil, nil, err
	}
	known := object{value: o.get("special_tokens")}
	if !known.null() {
		if err := known.decode(&known.fields, "an object"); err != nil {
			return nil, nil, err
		}
	}
	pieces, err := o.get("single").list()
	if err != nil {
		return nil, nil, err
	}
	seen := false
	for _, piece := range pieces {
		p, err := piece.object("Sequence", "SpecialToken")
		if err != nil {
			return nil, nil, err
		}
		if len(p.fields) != 1 {
			return nil, nil, piece.errorf("has %d fields, want one of Sequence and SpecialToken", len(p.fields))
		}
		for key := range p.fields {
			part, err := p.get(key).object("id", "type_id")
			if err != nil {
				return nil, nil, err
			}
			name, err := part.text("id")
			if err != nil {
				return nil, nil, err
			}
			if key == "Sequence" {
				if name != "A" || seen {
					return nil, nil, part.errorf("the template of one text has it once, as A")
				}
				seen = true
				continue
			}
			if _, ok := known.fields[name]; !ok {
				return nil, nil, part.errorf("token %.60q is missing in special_tokens", name)
			}
			token, err := known.get(name).object("id", "ids", "tokens")
			if err != nil {
				return nil, nil, err
			}
			ids, err := token.get("ids").list()
			if err != nil {
				return nil, nil, err
			}
			for _, v := range ids {
				id, err := v.id()
				if err != nil {
					return nil, nil, err
				}
				if seen {
					after = append(after, id)
				} else {
					before = append(before, id)
				}
				if len(before)+len(after) > maxFrame {
					return nil, nil, piece.errorf("more than %d ids around a text", maxFrame)
				}
			}
		}
	}
	if !seen {
		return nil, nil, o.get("single").errorf("lacks the text")
	}
	return before, after, nil
}
