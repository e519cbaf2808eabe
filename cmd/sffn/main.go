// Sffn prepares text, trains and runs transformers with structured
// feed-forward layers, and checks and times the kernels that they run on.
package main

import (
	"github.com/structuredffn/sffn/cmd/sffn/tool"
	_ "github.com/structuredffn/sffn/generated/demo"  // kernels of the demo's shapes
	_ "github.com/structuredffn/sffn/generated/gpt2s" // and of the paper's S shapes
)

func main() { tool.Main() }
