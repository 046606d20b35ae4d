#!/bin/sh
# Runs each fuzz target of the tree for a while. Usage: fuzz.sh DURATION
set -eu
for file in $(grep -rlE '^func Fuzz' --include='*_test.go' .); do
	dir=$(dirname "$file")
	for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | sed 's/^func //'); do
		echo "== $dir $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$dir"
	done
done
