#!/bin/bash
# Runs the simulation of decisions (consensus/scheduler) over DECISIONS seeds (default 10000), then that of whole clusters
# (node/nodetest) over many seeds in several processes, then the figures of fail-over.
# usage: sim.sh SEEDS SECONDS [FIRST]; JOBS processes (default: one a CPU). Exit 1 if a seed failed; its log is kept.
set -u
seeds=${1:-200} seconds=${2:-300} first=${3:-1} jobs=${JOBS:-$(nproc)}
cd "$(dirname "$0")" || exit 1
shm=/dev/shm; [ -w $shm ] || shm=${TMPDIR:-/tmp}
dir=$(mktemp -d "$shm/shoal-sim.XXXXXX") logs=$(mktemp -d "${TMPDIR:-/tmp}/shoal-sim-logs.XXXXXX")
trap 'rm -rf "$dir"' EXIT
go test -c -o "$dir/sim.test" . || exit 1
go test -c -o "$dir/decisions.test" ../../consensus/scheduler || exit 1
decisions=${DECISIONS:-10000}
part=$(((decisions + jobs - 1) / jobs))
for k in $(seq 0 $((jobs - 1))); do
	nice "$dir/decisions.test" -test.v -test.run TestSimulatedClustersSettle -test.timeout 60m -sim.seeds $part -sim.first $((first + k * part)) \
		>"$logs/decisions.$k.txt" 2>&1 &
done
wait
grep -hoE '[0-9]+ seeds from .*|again with: .*' "$logs"/decisions.*.txt
grep -lE '^--- FAIL|^panic' "$logs"/decisions.*.txt && exit 1
SECONDS=0 # also when make has put its own SECONDS into the environment

# A seed that ends with goroutines left takes its process with it: the next one goes on behind it.
work() { # k: seeds first+k, first+k+jobs, … in runs of ten
	local k=$1 i end last n out=$dir/out.$1
	i=$((first + k * 10)); end=$((first + seeds))
	mkdir "$dir/tmp.$k"
	while [ "$i" -lt "$end" ] && [ "$SECONDS" -lt "$seconds" ]; do
		n=$((end - i)); n=$((n > 10 ? 10 : n)); local stop=$((i + n))
		while [ "$i" -lt "$stop" ] && [ "$SECONDS" -lt "$seconds" ]; do
			GOMAXPROCS=2 SHOAL_SIM_LOGS=$logs TMPDIR=$dir/tmp.$k nice "$dir/sim.test" -test.run '^TestRandomTroubleComesRight$' -test.v \
				-sim.first="$i" -sim.seeds=$((stop - i)) -sim.seconds=$((seconds - SECONDS + 1)) -test.timeout 30m >"$out.now" 2>&1
			last=$(grep -o '^=== RUN .*seed=[0-9]*' "$out.now" | tail -1); last=${last##*=}
			cat "$out.now" >>"$out"
			i=$((${last:-$stop} + 1))
			rm -rf "$dir/tmp.$k"/*
		done
		i=$((stop + (jobs - 1) * 10))
	done
}
for k in $(seq 0 $((jobs - 1))); do work "$k" & done
wait
cat "$dir"/out.* >"$logs/all.txt"
ran=$(grep -c '^=== RUN .*seed=' "$logs/all.txt")
failed=$(grep -oE '^ *sim.go:[0-9]+: seed [0-9]+|^panic: .*' "$logs/all.txt" | sort -u)
events=$(grep -oE '[0-9]+ events' "$logs/all.txt" | awk '{s += $1} END {print s + 0}')
echo "simulated $ran clusters from seed $first on for ${SECONDS}s in $jobs processes, with $events changes and faults"
grep -hoE '[0-9]+ seeds, .*|settled after .*' "$logs/all.txt" | grep settled | tail -1
TMPDIR=$dir nice "$dir/sim.test" -test.run 'TestFailoverTimes|TestLossyNetwork|TestSeed' -test.v -sim.old -sim.losses="${LOSSES:-40}" -sim.lossy="${LOSSY:-1h}" >"$dir/figures" 2>&1
figures=$?
grep -E 'lost .* times|loss:|FAIL|--- FAIL|waited' "$dir/figures" | sed 's/^ *[a-z_]*.go:[0-9]*: //'
if [ -n "$failed" ]; then
	echo "failed:"; echo "$failed"; echo "see $logs"; exit 1
fi
[ $figures -eq 0 ] && rm -rf "$logs"
exit $figures
