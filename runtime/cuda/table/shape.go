package table

import "github.com/structuredffn/sffn/runtime/kernel"

// Role is what a kernel is launched for.
type Role string

// The roles: matrix products on tensor cores and in float32, and what adds up the
// parts of their sums; gradients' sums; casts; what lies around the products;
// attention; and the optimizer's.
const (
	RoleGEMM       Role = "gemm"
	RoleSGEMM      Role = "sgemm"
	RoleFinish     Role = "finish"
	RoleSum        Role = "sum"
	RoleColumns    Role = "columns"
	RoleCast       Role = "cast"
	RoleNorm       Role = "norm"
	RoleEmbed      Role = "embed"
	RoleRotate     Role = "rotate"
	RoleLoss       Role = "loss"
	RoleAttend     Role = "attend"
	RoleAttendRows Role = "attend_rows"
	RoleDelta      Role = "delta"
	RoleAdamW      Role = "adamw"
	RolePackBF16   Role = "pack_bf16"
	RoleSumSquares Role = "sum_squares"
	RoleClipNorm   Role = "clip_norm"
)

// Shape is what a kernel computes: the one of these that its role has. The
// optimizer's kernels, which have the same shape in all models, have an Update.
type Shape struct {
	Product   *Product   `json:"product,omitempty"`
	Finish    *Finish    `json:"finish,omitempty"`
	Sum       *Sum       `json:"sum,omitempty"`
	Columns   *Columns   `json:"columns,omitempty"`
	Cast      *Cast      `json:"cast,omitempty"`
	Norm      *Norm      `json:"norm,omitempty"`
	Embed     *Embed     `json:"embed,omitempty"`
	Rotate    *Rotate    `json:"rotate,omitempty"`
	Loss      *Loss      `json:"loss,omitempty"`
	Attention *Attention `json:"attention,omitempty"`
	Update    *Update    `json:"update,omitempty"`
}

// Pass is one of the three products that a factor takes part in.
type Pass string

// The passes.
const (
	Forward        Pass = "forward"
	BackwardData   Pass = "backward_data"
	BackwardWeight Pass = "backward_weight"
)

// Precision of a layer's operands. Sums are always float32.
type Precision string

// The precisions: bf16 on tensor cores, for widths and runs that are multiples
// of 8, and float32 on CUDA cores, for all others.
const (
	BF16     Precision = "bf16"
	Float32s Precision = "float32"
)

// Epilogue is what a GPU kernel does with its sums before it stores them: nothing,
// or what an activation of [kernel.Epilogues] is called. Such a forward one adds the
// bias and can save the values before the activation. A backward one, d before the name,
// multiplies by the activation's derivative there. Gates and ups alternate in a row
// before the activation.
type Epilogue string

// Plain is no activation.
const Plain Epilogue = ""

// EpiloguesOf are the epilogues of an activation, forward and backward.
func EpiloguesOf(act string) (forward, backward Epilogue) { return Epilogue(act), Epilogue("d" + act) }

// Epilogues lists them.
func Epilogues() []Epilogue {
	es := []Epilogue{Plain}
	for _, e := range kernel.Epilogues() {
		if e != kernel.Linear {
			forward, backward := EpiloguesOf(string(e))
			es = append(es, forward, backward)
		}
	}
	return es
}

// Act is the activation of an epilogue, empty where there is none, and whether the
// epilogue is the backward one.
func (e Epilogue) Act() (act string, backward bool) {
	for _, k := range kernel.Epilogues() {
		switch forward, back := EpiloguesOf(string(k)); {
		case k == kernel.Linear:
		case e == forward:
			return string(k), false
		case e == back:
			return string(k), true
		}
	}
	return "", false
}

// Activates reports whether results are those of an activation, Slopes whether they
// are multiplied by its derivative, and Gated whether the activation is one of a gate
// and an up.
func (e Epilogue) Activates() bool { act, back := e.Act(); return act != "" && !back }
func (e Epilogue) Slopes() bool    { _, back := e.Act(); return back }
func (e Epilogue) Gated() bool     { act, _ := e.Act(); return kernel.Epilogue(act).Gated() }

// Shuffle is a fixed order of the entries of all blocks: entry i of a vector of
// n blocks of q entries moves to i%n*q + i/n where they are dealt out, and back, to
// i%q*n + i/q.
type Shuffle string

// The shuffles.
const (
	NoShuffle Shuffle = ""
	Deal      Shuffle = "deal"
	Riffle    Shuffle = "riffle"
)

// Places says where the entries of one block lie in a stored row: runs of Run
// neighbours, Step apart, block b's first entry at b*Block.
type Places struct {
	Len   int `json:"len"`
	Run   int `json:"run"`
	Step  int `json:"step"`
	Block int `json:"block,omitzero"`
	// Then is, for float32 products, the shuffle of the entries of all Of blocks.
	Then Shuffle `json:"then,omitzero"`
	Of   int     `json:"of,omitzero"`
	// Pairs takes gates and ups, the first and the second half of a block's
	// entries, by turns.
	Pairs bool `json:"pairs,omitzero"`
}

// At is the place of entry i of block b.
func (p Places) At(b, i int) int {
	if p.Pairs {
		i = p.Paired(i)
	}
	switch n := b*p.Len + i; p.Then {
	case Deal:
		return n%p.Of*p.Len + n/p.Of
	case Riffle:
		return n%p.Len*p.Of + n/p.Len
	}
	return b*p.Block + i/p.Run*p.Step + i%p.Run
}

// Paired is the entry that comes i-th where gates and ups take turns.
func (p Places) Paired(i int) int { return i%2*(p.Len/2) + i/2 }

// Contiguous is a block stored as one run.
func Contiguous(n int) Places { return Places{Len: n, Run: n, Step: n, Block: n} }

// Operand is a stored matrix with one part a block.
type Operand struct {
	// Rows counts the stored rows, 0 where they are the tokens; Pitch is the
	// distance from one to the next and BlockRows that between blocks.
	Rows      int `json:"rows,omitzero"`
	Pitch     int `json:"pitch"`
	BlockRows int `json:"block_rows,omitzero"`
	// Cols are the places in a row.
	Cols Places `json:"cols"`
	// Summed operands are summed over their rows, others over their columns.
	Summed bool `json:"summed,omitzero"`
	// Pairs takes the rows of gates and of ups by turns.
	Pairs bool `json:"pairs,omitzero"`
}

// At is the index of the entry in a row and column of a block.
func (o Operand) At(block, row, col int) int {
	if o.BlockRows == 0 {
		return row*o.Pitch + o.Cols.At(block, col)
	}
	if o.Pairs {
		row = Places{Len: o.Rows}.Paired(row)
	}
	return (block*o.BlockRows+row)*o.Pitch + col
}

// Outer and Inner are the size that results have of the operand, and the one that
// is summed over; 0 stands for the tokens.
func (o Operand) Outer() int {
	if o.Summed {
		return o.Cols.Len
	}
	return o.Rows
}

// Inner is Outer's counterpart.
func (o Operand) Inner() int {
	if o.Summed {
		return o.Rows
	}
	return o.Cols.Len
}

// Product is a matrix product: for each block C[i,j] = epilogue(sum_k A[i,k]*B[j,k]).
type Product struct {
	Pass      Pass      `json:"pass"`
	Precision Precision `json:"precision"`
	Blocks    int       `json:"blocks"`
	A         Operand   `json:"a"`
	B         Operand   `json:"b"`
	C         Operand   `json:"c"`
	Epilogue  Epilogue  `json:"epilogue,omitzero"`
	Bias      bool      `json:"bias,omitzero"`
	// Sums says that results are stored as float32 although operands are bf16.
	Sums bool `json:"sums,omitzero"`
	// Parts is how many thread blocks share each sum, where they are more than
	// one: the product then stores float32 parts, each of PartDepth terms but the
	// last, which a second kernel adds up and finishes.
	Parts     int `json:"parts,omitzero"`
	PartDepth int `json:"part_depth,omitzero"`
}

// Rows, Cols and Depth are the sizes of one block's product; 0 stands for the
// tokens.
func (p Product) Rows() int  { return p.A.Outer() }
func (p Product) Cols() int  { return p.B.Outer() }
func (p Product) Depth() int { return p.A.Inner() }

// Split reports whether the sums are stored in parts.
func (p Product) Split() bool { return p.Parts > 1 }

// Float32 products have float32 results, others bf16.
func (p Product) Float32() bool {
	return p.Pass == BackwardWeight || p.Sums || p.Precision == Float32s
}

// Finish adds up the parts of a product's sums, in rows of Width entries, in their
// order, and does its epilogue.
type Finish struct {
	Width     int       `json:"width"`
	Parts     int       `json:"parts"`
	Precision Precision `json:"precision"`
	Epilogue  Epilogue  `json:"epilogue,omitzero"`
	Bias      bool      `json:"bias,omitzero"`
	Sums      bool      `json:"sums,omitzero"`
}

// Sum adds up parts of float32 sums, in a fixed order, to or in place of what is
// there: gradients. Down threads share an entry.
type Sum struct {
	Down int `json:"down"`
}

// Columns sums the columns of rows of Width entries in parts: the gradient of a bias.
type Columns struct {
	Width     int       `json:"width"`
	Precision Precision `json:"precision"`
}

// Cast rounds float32 to bf16, or widens bf16. The number of entries is a
// multiple of 8.
type Cast struct {
	Widen bool `json:"widen,omitzero"`
}

// Norm is a layer or RMS norm over rows of Hidden entries, forward
//
//	s = x + y, n = (s - mean)*rstd, out = n*w + b
//
// and backward, with g = dout*w,
//
//	ds = dx + rstd*(g - mean(g) - n*mean(g*n)), dw = sum dout*n, db = sum dout
//
// where y, the output of the sublayer before, is there with Add, and RMS norms
// have neither mean nor b. Chains that end with a shuffle store y block by block:
// Blocks of them, one otherwise. Backward leaves ds, and with Add in bf16 and y's
// order for that sublayer's backward pass; sums over rows in parts of Rows.
type Norm struct {
	Hidden   int  `json:"hidden"`
	Blocks   int  `json:"blocks"`
	Rows     int  `json:"rows"`
	RMS      bool `json:"rms,omitzero"`
	Add      bool `json:"add,omitzero"`
	Backward bool `json:"backward,omitzero"`
}

// Width of a row of partial sums: dw, and db of layer norms.
func (n Norm) Width() int {
	if n.RMS {
		return n.Hidden
	}
	return 2 * n.Hidden
}

// Stats are the numbers that a row leaves for its backward pass.
func (n Norm) Stats() int {
	if n.RMS {
		return 1
	}
	return 2
}

// Embed sums the embeddings of a token and, where they are learned, of its
// position; Backward adds the rows of the gradient to the rows of one table,
// in the order of the tokens: for each row of the table, order lists the tokens
// from starts[row] to starts[row+1]; Vocab and Positions are then left out.
type Embed struct {
	Hidden    int  `json:"hidden"`
	Positions int  `json:"positions,omitzero"` // rows of the table of positions, 0 for none
	Vocab     int  `json:"vocab,omitzero"`
	Backward  bool `json:"backward,omitzero"`
}

// Rotate turns the queries and keys of rows of qkv to their positions, in
// place, with Turn: entries j and j+HeadDim/2 of a head are a pair, (a, c) -> (a cos - c
// sin, c cos + a sin), and back where sign is -1. With Cache, keys and values
// go to the cache [sequence, head, capacity, HeadDim] instead, the keys turned
// where Turn, and queries are turned in place.
type Rotate struct {
	Heads   int  `json:"heads"`
	KVHeads int  `json:"kv_heads"`
	HeadDim int  `json:"head_dim"`
	Turn    bool `json:"turn,omitzero"`
	Cache   bool `json:"cache,omitzero"`
}

// Width of a row of qkv.
func (r Rotate) Width() int { return (r.Heads + 2*r.KVHeads) * r.HeadDim }

// Loss is the cross entropy of rows of logits, which it replaces by their
// gradient times scale where its number gradient is not 0:
//
//	loss = log(sum exp(logit)) - logit[target], dlogit = (softmax - [target])*scale
//
// Rows whose target is negative count for nothing. Columns from Vocab on are
// padding: their logits are ignored, and their gradient is 0.
type Loss struct {
	Vocab int `json:"vocab"`
	Pitch int `json:"pitch"`
}

// AttendPass is one of the kernels of causal attention,
//
//	P = softmax(scale Q K^T), O = P V
//	dS = P*(dO V^T - rowsum(dO*O))*scale, dQ = dS K, dK = dS^T Q, dV = P^T dO
//
// where forward leaves lse [tokens, heads], the logarithms to base 2 of the
// rows' sums, and Delta the sums over dO*O. Query heads share key heads in groups,
// whose gradients are summed in order.
type AttendPass string

// The passes.
const (
	AttendForward AttendPass = "forward"
	AttendDelta   AttendPass = "delta"
	AttendQueries AttendPass = "queries"
	AttendKeys    AttendPass = "keys"
)

// Attention is one kernel of attention. With Cache, which forward has, keys
// and values are those of a cache, and the rows of a launch continue sequences.
// Tensor cores run tiles of TileRows rows of one head; kernels with Rows run one row
// of one head: for few rows, and for heads that tensor cores do not fit.
type Attention struct {
	Heads   int        `json:"heads"`
	KVHeads int        `json:"kv_heads"`
	HeadDim int        `json:"head_dim"`
	Pass    AttendPass `json:"pass"`
	Cache   bool       `json:"cache,omitzero"`
	Rows    bool       `json:"rows,omitzero"`
}

// TileRows are the rows of a tile on tensor cores.
func (Attention) TileRows() int { return 64 }

// Group is the number of query heads that share a key head, and Width that of
// the entries of a row of qkv, Out of a row of results.
func (a Attention) Group() int { return a.Heads / a.KVHeads }
func (a Attention) Width() int { return (a.Heads + 2*a.KVHeads) * a.HeadDim }
func (a Attention) Out() int   { return a.Heads * a.HeadDim }

// Update passes over arrays of any length, which every model has: SumSquares
// leaves a sum for each Each entries.
type Update struct {
	Each int `json:"each,omitzero"`
}
