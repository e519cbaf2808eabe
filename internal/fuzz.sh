#!/bin/sh
# Runs every fuzz target of the module for a time each, and goes on after one that
# fails: what it found is in testdata/fuzz of its package, to be fixed and kept.
#
#	internal/fuzz.sh 10m
set -u
failed=
for file in $(grep -rl --include='*_test.go' '^func Fuzz' . | sort); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file"); do
		echo "$(dirname "$file") $target"
		${GO:-go} test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$(dirname "$file")" || failed="$failed $(dirname "$file"):$target"
	done
done
test -z "$failed" || { echo "failed:$failed"; exit 1; }
