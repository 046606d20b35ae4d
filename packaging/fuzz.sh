#!/usr/bin/env bash
# Runs each fuzz target of the tree for a while, two at a time, each on one processor. Usage: fuzz.sh DURATION [REGEXP]
# Fails for what the fuzzer found: the input is then below the package's testdata/fuzz, where it stays as a test.
set -euo pipefail
time=$1 only=${2:-.}
tags="netgo osusergo seccomp"
top=$PWD out=$PWD/build/fuzz
mkdir -p "$out"

# Each package's tests are linked once; go test -fuzz would do it for every target.
build() {
	local dir=$1 name
	name=$(echo "${dir#./}" | tr / -)
	go test -c -fuzz . -tags "$tags" -o "$out/$name.test" "$dir"
}
export -f build

# one DIR TARGET. Before Go 1.27 the end of -fuzztime may come out as a failure when the machine is busy (golang/go#75804):
# it says nothing but that, and keeps no input. Everything else is one.
one() {
	local dir=$1 target=$2 name log status=0 found
	name=$(echo "${dir#./}" | tr / -) log=$out/$(echo "${dir#./}" | tr / -).$target.log
	cd "$top/$dir"
	GOMAXPROCS=1 nice -n 1 "$out/$name.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" -test.fuzzcachedir "$out/cache/$dir" -test.fuzzminimizetime 100x -test.parallel 1 >"$log" 2>&1 || status=$?
	found=$(sed -n 's/.*execs: \([0-9]*\).*interesting: .*total: \([0-9]*\)).*/\1 inputs, \2 of them kept apart/p' "$log" | tail -n 1)
	if [ "$status" != 0 ] && grep -qx ' *context deadline exceeded' "$log" && ! grep -qE 'Failing input|panic:|fatal error|fuzzing process' "$log"; then
		status=0
	fi
	if [ "$status" = 0 ]; then
		printf 'ok    %-24s %-24s %s\n' "${dir#./}" "$target" "$found"
	else
		printf 'FAIL  %-24s %-24s %s, see %s\n' "${dir#./}" "$target" "$found" "${log#"$top"/}"
		tail -n 40 "$log"
	fi
	return $status
}
export -f one
export top out time tags

targets=$(grep -rE '^func Fuzz[A-Za-z0-9_]*\(' --include='*_test.go' . | sed -E 's|^(.*)/[^/]*_test.go:func (Fuzz[A-Za-z0-9_]*)\(.*|\1 \2|' | grep -E "$only" | sort)
begun=$SECONDS
echo "$targets" | cut -d' ' -f1 | sort -u | xargs -P 1 -I{} bash -euc 'build {}'
echo "$(echo "$targets" | wc -l) targets, $time each, two at a time; built in $((SECONDS - begun)) s"
status=0
echo "$targets" | xargs -P 2 -L 1 bash -uc 'one $0 $1' || status=1
echo "fuzzed for $((SECONDS - begun)) s in all"
exit $status
