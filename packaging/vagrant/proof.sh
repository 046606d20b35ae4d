#!/bin/bash
# Brings the Vagrantfile's machines up, looks whether they are what is promised, cuts the power of one, and destroys all.
# usage: proof.sh, beside a libvirtd (apart.sh starts one); takes minutes without acceleration.
set -euo pipefail
count=${N:-3}
say() { echo "== $*"; }
within() { # SECONDS WHAT COMMAND...
	local limit=$1 what=$2 begun=$SECONDS
	shift 2
	until "$@"; do
		[ $((SECONDS - begun)) -lt "$limit" ] || { echo "not within $limit s: $what" >&2; exit 1; }
		sleep 2
	done
	echo "$what: $((SECONDS - begun)) s"
}
on() { local m=$1; shift; ssh -q -F "$config" "$m" "$@"; }
running() { [ "$(on "$1" sudo shoal ps web | awk '$4 == "running" {n++} END {print n + 0}')" = "$2" ]; }
down() { on "$1" sudo shoal node ls | awk -v name="$2" '$1 == name && $2 == "down" {found = 1} END {exit !found}'; }
ready() { [ "$(on "$1" sudo shoal node ls | awk '$2 == "ready"' | wc -l)" = "$2" ]; }

config=$(mktemp)
trap 'rm -f "$config"; vagrant destroy -f >/dev/null 2>&1 || true' EXIT
vagrant destroy -f >/dev/null 2>&1 || true # of a run that was broken off
say "vagrant up, $count machines"
begun=$SECONDS
vagrant up --provider libvirt
echo "up after $((SECONDS - begun)) s"
vagrant ssh-config >"$config"

say "what they are"
on m1 'uname -r; stat -fc %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers; systemctl is-active shoal; sudo shoal agent --check' || true
[ "$(on m1 stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || { echo "m1 has no cgroup v2" >&2; exit 1; }
for k in $(seq 1 "$count"); do
	on "m$k" systemctl is-active --quiet shoal || { on "m$k" sudo journalctl -u shoal -n 30 --no-pager -o cat >&2; exit 1; }
done
within 120 "all nodes ready" ready m1 "$count"
within 300 "three tasks of web run" running m1 3
on m1 sudo shoal ps

say "the power of m$count is cut"
virsh -q -c qemu:///system destroy "$(virsh -c qemu:///system list --name | grep "_m$count\$")"
within 300 "it is known to be down" down m1 "m$count"
within 300 "three tasks run without it" running m1 3
on m1 'sudo shoal events | tail -n 15'

say "vagrant destroy -f"
vagrant destroy -f
left=$(virsh -c qemu:///system list --all --name; virsh -c qemu:///system net-list --all --name | grep -x shoal || true)
[ -z "$(echo $left)" ] || { echo "left behind: $left" >&2; exit 1; }
echo "nothing is left"
