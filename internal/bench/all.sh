#!/usr/bin/env bash
# Measures parts of what docs/performance.md shows: prints tables, and leaves the same
# as JSON in build/bench. docs/bench.md says what each part is.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=build/bench
mkdir -p "$out"

# OpenBLAS and libxsmm take part where their headers are installed.
tags=""
if echo '#include <cblas.h>
#include <libxsmm.h>' | cc -E -x c - >/dev/null 2>&1; then tags=peers; fi
go build -tags "$tags" -o "$out/sffn" ./cmd/sffn

# measure NAME COMMAND...: the table of a command, and NAME.json
measure() {
  local name=$1
  shift
  printf '\n== %s: sffn %s\n' "$name" "${*:2}"
  "$@" --out "$out/$name.json" $FLAGS
}

# presets SIZE: the paper's table for one size
presets() {
  local list="gpt2$1-dense" kind
  for kind in lowrank blockdense blockshuffle; do list+=",gpt2$1-$kind-63,gpt2$1-$kind-32"; done
  echo "$list"
}

sffn=$out/sffn
for part in "$@"; do
  case $part in
    kernels)
      measure kernels "$sffn" bench kernels --rows 1,8,16,64,256,2048 --peers all
      measure kernels-cold "$sffn" bench kernels --rows 1 --cold --peers all
      SFFN_ISA=avx2 measure kernels-avx2 "$sffn" bench kernels --rows 2048
      ;;
    ablate) measure ablate "$sffn" bench kernels --ablate ;;
    ffn) measure ffn "$sffn" bench ffn --rows 256,2048 --peers all ;;
    train) measure train "$sffn" bench train --batch 1,8 --peers all ;;
    decode) measure decode "$sffn" bench decode --peers all ;;
    runtime) measure runtime "$sffn" bench runtime ;;
    shapes) # layer by layer: the XL model does not fit small machines
      for size in m l xl; do
        tool=$out/sffn-$size configs=$(presets $size)
        "$sffn" build --config "$configs" -o "$tool"
        measure kernels-$size "$tool" bench kernels --config "$configs" --rows 1,16,256,2048 --peers all
        measure ffn-$size "$tool" bench ffn --config "$configs"
      done
      ;;
    *)
      echo "unknown part $part: want kernels, ablate, ffn, train, decode, runtime or shapes" >&2
      exit 2
      ;;
  esac
done
