package data

import "github.com/structuredffn/sffn/model/token"

// inFolder returns the tokenizer of that name which a folder of data was made with.
func inFolder(_, name string) (token.Tokenizer, error) { return token.New(name) }
