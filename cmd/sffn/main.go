// Sffn prepares text, trains and runs transformers with structured
// feed-forward layers, and checks and times the kernels that they run on.
package main

import (
	"github.com/structuredffn/sffn/cmd/sffn/tool"
	_ "github.com/structuredffn/sffn/generated/demo"  // kernels of the demo's shapes
	_ "github.com/structuredffn/sffn/generated/gpt2l" // of the paper's L shapes, for GPUs
	_ "github.com/structuredffn/sffn/generated/gpt2m" // of its M shapes, for GPUs
	_ "github.com/structuredffn/sffn/generated/gpt2s" // and of its S shapes
)

func main() { tool.Main() }
