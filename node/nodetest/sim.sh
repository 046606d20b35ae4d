#!/bin/bash
# Simulations in fake time, for SECONDS of real time in all, in JOBS processes (default: one a CPU):
#   leaders lost      consensus            three or five log-holders, a leader lost every second or two, under load
#   decisions         consensus/scheduler  the planner over random clusters
#   false deaths      node                 gossip and the leader's judgement at 10 % loss
#   whole clusters    node/nodetest        all of it under random trouble, and the seeds that failed once
# usage: sim.sh SECONDS [FIRST [SEEDS]]; FIRST is the first seed (default: a fresh one, printed), SEEDS at most how many
# clusters. What takes part can be chosen: ONLY='leaders clusters'. Exit 1 if anything failed; its log is kept.
set -u
seconds=${1:-300} first=${2:-} seeds=${3:-100000} jobs=${JOBS:-$(nproc)} only=${ONLY:-leaders decisions deaths clusters}
first=${first:-$((RANDOM * 32768 * 16 + RANDOM * 16 + 10000))}
cd "$(dirname "$0")" || exit 1
# The nodes' files are in memory, where there is a way: a mount that nobody else sees and that goes with us. (/dev/shm is too
# small on many machines.)
if [ "$(id -u)" = 0 ] && [ -z "${SHOAL_SIM_MOUNTED:-}" ] && unshare -m true 2>/dev/null; then
	SHOAL_SIM_MOUNTED=1 exec unshare -m --propagation private "./$(basename "$0")" "$seconds" "$first" "$seeds"
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/shoal-sim.XXXXXX") logs=$(mktemp -d "${TMPDIR:-/tmp}/shoal-sim-logs.XXXXXX")
trap 'umount "$dir/files" 2>/dev/null; rm -rf "$dir"' EXIT
# Half of the time goes into garbage collection and the key exchange of the day after tomorrow, and neither is simulated.
export GOGC=800 GODEBUG=tlsmlkem=0 GOMAXPROCS=2 SHOAL_SIM_LOGS=$logs
for p in nodetest:. scheduler:../../consensus/scheduler consensus:../../consensus node:..; do
	go test -c -o "$dir/${p%%:*}.test" "${p#*:}" || exit 1
done
mkdir "$dir/files"
if [ -n "${SHOAL_SIM_MOUNTED:-}" ]; then
	mount -t tmpfs -o mode=700 shoal-sim "$dir/files" || echo "no file system in memory: slower" >&2
fi
echo "simulating for ${seconds}s in $jobs processes from seed $first on (again: make sim FIRST=$first)"
bad=0
part() { # percent: so many seconds
	echo $((seconds * $1 / 100))
}
wants() { [[ " $only " == *" $1 "* ]]; }
each() { # name, binary, arguments with %SEED%: one in each process
	local name=$1 binary=$2 k pid pids=() status; shift 2
	for k in $(seq 0 $((jobs - 1))); do
		mkdir -p "$dir/files/$name.$k"
		TMPDIR=$dir/files/$name.$k nice "$dir/$binary.test" -test.v -test.timeout 60m "${@//%SEED%/$((first + k * 1000000))}" >"$logs/$name.$k.txt" 2>&1 &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do # not every end leaves a word: the kernel kills, too
		status=0
		wait "$pid" || status=$?
		[ $status = 0 ] || { bad=1; echo "failed: a process of $name ended with status $status"; }
	done
	if grep -qE '^ *--- FAIL|^panic' "$logs/$name".*.txt; then
		bad=1
		grep -hE -B12 '^ *--- FAIL|^panic' "$logs/$name".*.txt | head -60
	fi
}
tell() { # name, pattern of the lines that say how much there was: none is a failure
	grep -hoE "$2" "$logs/$1".*.txt && return
	bad=1
	echo "failed: nothing was simulated of $1; the end of its log:"
	tail -qn 5 "$logs/$1".*.txt
}

if wants leaders; then
	each leaders consensus -test.run '^TestLeadersAreLost' -sim.first %SEED% -sim.losses "${LOSSES:-1000000}" -sim.seconds "$(part 25)"
	tell leaders '\b[1-9][0-9]* leaders of three or five.*'
fi
if wants decisions; then
	each decisions scheduler -test.run '^TestSimulatedClustersSettle' -sim.first %SEED% -sim.seeds "${DECISIONS:-1000000}" -sim.seconds "$(part 12)"
	tell decisions '\b[1-9][0-9]* seeds from .{0,60}'
fi
if wants deaths; then
	each deaths node -test.run '^(TestNobodyLiving|TestInquiries)' -sim.first %SEED% -sim.lossy "${LOSSY:-$(($(part 10) * 3))m}" -sim.inquiries "${INQUIRIES:-$(($(part 10) * 20))}"
	tell deaths '[0-9.]*[1-9][0-9.]* node-days at.*|\b[1-9][0-9]* inquiries.*'
fi

# A seed that ends with goroutines left takes its process with it: the next one goes on behind it.
work() { # k: seeds first+k*10 on, in runs of ten
	local k=$1 i end last n stop out=$dir/out.$1
	i=$((first + k * 10)) end=$((first + seeds))
	mkdir "$dir/files/tmp.$k"
	while [ "$i" -lt "$end" ] && [ $SECONDS -lt "$until" ]; do
		n=$((end - i)) n=$((n > 10 ? 10 : n)) stop=$((i + n))
		while [ "$i" -lt "$stop" ] && [ $SECONDS -lt "$until" ]; do
			TMPDIR=$dir/files/tmp.$k nice "$dir/nodetest.test" -test.run '^TestRandomTroubleComesRight$' -test.v \
				-sim.first="$i" -sim.seeds=$((stop - i)) -sim.seconds=$((until - SECONDS + 1)) -test.timeout 30m >"$out.now" 2>&1 ||
				echo "a process with seeds from $i on ended with status $?" >>"$dir/ends"
			last=$(grep -o '^=== RUN .*seed=[0-9]*' "$out.now" | tail -1); last=${last##*=}
			cat "$out.now" >>"$out"
			i=$((${last:-$stop} + 1))
			rm -rf "$dir/files/tmp.$k"/*
		done
		i=$((stop + (jobs - 1) * 10))
	done
}
if wants clusters; then
	SECONDS=0 until=$(part 51) # SECONDS is the shell's clock
	for k in $(seq 0 $((jobs - 1))); do
		{
			[ "$k" != 0 ] || TMPDIR=$dir/files nice "$dir/nodetest.test" -test.run '^TestSeed' -test.v -sim.old >"$dir/old" 2>&1 ||
				echo "the process with the seeds that failed once ended with status $?" >>"$dir/ends"
			work "$k"
		} &
	done
	wait
	cat "$dir/old" "$dir"/out.? >"$logs/clusters.txt"
	count=$(grep -c '^=== RUN .*seed=' "$logs/clusters.txt")
	failed=$(grep -oE '^ *(sim|moretrouble|cluster|invariants).go:[0-9]+: (seed [0-9]+|waited).*|^panic: .*|^--- FAIL: .*' "$logs/clusters.txt" | sort -u)
	[ -n "$failed" ] || failed=$(cat "$dir/ends" 2>/dev/null) # without a word of its own: killed, or a fatal error
	[ -n "$failed" ] || [ "$count" != 0 ] || failed="no cluster was simulated"
	echo "$count whole clusters in ${SECONDS}s, with $(grep -oE '[0-9]+ events' "$logs/clusters.txt" | awk '{s += $1} END {print s + 0}') changes and faults; $(grep -c '^=== RUN .*TestSeed' "$logs/clusters.txt") seeds that failed once"
	if [ -n "$failed" ]; then
		bad=1
		echo "failed:"; echo "$failed" | cut -c1-500
	fi
fi
[ $bad = 0 ] && rm -rf "$logs" || echo "see $logs; again: make sim FIRST=$first"
exit $bad
