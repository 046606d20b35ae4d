#!/usr/bin/env bash
# Shows that make chaos would find what it looks for: builds that are wrong on purpose, each of which must be caught by the
# checker. Usage: controls.sh TAGS [CONTROL...]
set -euo pipefail
tags=$1
shift
dir=build/controls
mkdir -p "$dir"
CGO_ENABLED=0 go build -o "$dir/chaos-run" ./e2e/chaos/run

# control NAME FLAGS...: a build with the tag fault_NAME must be caught by a run with the flags.
control() {
	local name=$1 status=0
	shift
	CGO_ENABLED=1 go build -trimpath -tags "$tags fault_$name" -ldflags "-s -w -X main.version=fault-$name -extldflags -static" -o "$dir/shoal-$name" ./cmd/shoal
	"$dir/chaos-run" -binary "$dir/shoal-$name" -evidence "$dir/evidence" -patience 45s "$@" >"$dir/$name.log" 2>&1 || status=$?
	if [ "$status" = 1 ] && grep -q '^VIOLATION' "$dir/$name.log"; then
		printf 'caught  %-10s %s\n' "$name" "$(grep -m 1 '^VIOLATION' "$dir/$name.log")"
	else
		printf 'MISSED  %-10s exit code %d, see %s\n' "$name" "$status" "$dir/$name.log"
		return 1
	fi
}

missed=0
for name in ${*:-localread nosync keepid norejoin}; do
	case $name in
	localread) control localread -short -count 4 -faults isolate,kill-agent ;;
	nosync) control nosync -short -count 8 -faults all-off ;;
	keepid) control keepid -count 2 -faults lost-log ;;
	norejoin) control norejoin -count 2 -faults long-split ;;
	*) echo "no control is named $name" >&2; exit 2 ;;
	esac || missed=1
done
exit "$missed"
