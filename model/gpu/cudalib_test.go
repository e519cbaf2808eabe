//go:build cuda && cgo

package gpu

import _ "github.com/structuredffn/sffn/generated/gpt2s/cudalib"
