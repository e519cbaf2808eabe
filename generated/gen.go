// Package generated holds the kernels of the shapes that the project ships,
// one package a model shape. The packages register themselves when linked.
package generated

//go:generate go run ../cmd/sffngen --config demo,demo-dense,demo-bpe,demo-bpe-dense --out demo
//go:generate go run ../cmd/sffngen --config gpt2s-dense,gpt2s-lowrank-63,gpt2s-lowrank-32,gpt2s-blockdense-63,gpt2s-blockdense-32,gpt2s-blockshuffle-63,gpt2s-blockshuffle-32 --isa avx512,avx2,cuda --out gpt2s
//go:generate go run ../cmd/sffngen --config gpt2m-dense,gpt2m-lowrank-63,gpt2m-lowrank-32,gpt2m-blockdense-63,gpt2m-blockdense-32,gpt2m-blockshuffle-63,gpt2m-blockshuffle-32 --isa cuda --out gpt2m
//go:generate go run ../cmd/sffngen --config gpt2l-dense,gpt2l-lowrank-63,gpt2l-lowrank-32,gpt2l-blockdense-63,gpt2l-blockdense-32,gpt2l-blockshuffle-63,gpt2l-blockshuffle-32 --isa cuda --out gpt2l
