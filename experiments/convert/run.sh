#!/usr/bin/env bash
# The conversions and fine-tunings of README.md, in the folder that has dense,
# data, go-data and py-data. What is there is not made again. SFFN is the program.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sffn=${SFFN:-sffn}
mkdir -p made json

# measure RUN has its losses on both sources.
measure() {
  [ -s "json/$1.eval.json" ] || { "$sffn" eval --model "$2" --data go-data --data py-data --tokens 65536 --json >json/part && mv json/part "json/$1.eval.json"; }
}

# tune NAME INIT CONFIG [FLAGS] trains on.
tune() {
  local name=$1 init=$2 config=$3
  shift 3
  if [ ! -s "json/$name.eval.json" ]; then
    rm -rf "made/$name"
    "$sffn" train --init "$init" --config "$here/$config" --data data --out "made/$name" "$@" >/dev/null
    measure "$name" "made/$name"
  fi
}

measure dense dense
tune dense-plain dense tune.yaml
for budget in 0.63 0.32; do
  for kind in lowrank blockdense blockshuffle btt blast dense; do
    for way in weights equal shared; do
      case $way in weights) flags="--uniform --whiten=false" ;; equal) flags=--uniform ;; shared) flags= ;; esac
      name=$kind-$budget-$way
      if [ ! -s "json/$name.json" ]; then
        rm -rf "made/$name"
        # shellcheck disable=SC2086
        "$sffn" convert --model dense --kind $kind --budget $budget --calibrate go-data --data py-data $flags --out "made/$name" --json >json/part
        mv json/part "json/$name.json"
      fi
    done
    tune "$kind-$budget-plain" "made/$kind-$budget-shared" tune.yaml
    [ $kind = dense ] || tune "$kind-$budget-guided" "made/$kind-$budget-shared" guided.yaml --guides dense
  done
done
tune lowrank-0.32-again made/lowrank-0.32-shared again.yaml
