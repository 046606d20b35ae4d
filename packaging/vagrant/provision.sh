#!/bin/bash
# Sets one machine up: the binary under systemd, founding or joining the cluster; the last machine runs the example.
# usage: provision.sh NAME ADDRESS FIRST-ADDRESS MACHINES. It may be run again: an installed agent is upgraded.
set -euo pipefail
name=$1 addr=$2 first=$3 count=$4
setup=/tmp/shoal-setup
cd "$setup"

version=$(chmod +x shoal && ./shoal --version | awk '{print $NF}')
install -D -m 755 shoal "/usr/local/lib/shoal/$version/shoal"
ln -sfn "/usr/local/lib/shoal/$version/shoal" /usr/local/bin/shoal
install -m 644 shoal.service /etc/systemd/system/shoal.service
install -d -m 755 /usr/local/share/shoal
install -m 644 web.compose.yaml /usr/local/share/shoal/

flags="--name $name --bind $addr:6174"
[ "$(systemd-detect-virt)" != qemu ] || flags="$flags --patience 10" # emulated, not accelerated: everything is many times slower
if [ "$addr" = "$first" ]; then
	# The others ask here for a token, with this key and for nothing else.
	home=$(getent passwd vagrant | cut -d: -f6)
	line="command=\"sudo /usr/local/bin/shoal token create --once --json\",restrict $(cat shoal-join-key.pub)"
	grep -qxF "$line" "$home/.ssh/authorized_keys" || echo "$line" >>"$home/.ssh/authorized_keys"
elif [ ! -e /var/lib/shoal ]; then
	chmod 600 shoal-join-key
	# Machines may come up in any order: the first one is waited for.
	for try in $(seq 1 200); do
		answer=$(ssh -i shoal-join-key -o BatchMode=yes -o ConnectTimeout=90 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
			-o LogLevel=ERROR "vagrant@$first") && token=$(grep -oE '"secret": *"[^"]+"' <<<"$answer" | cut -d'"' -f4) && [ -n "$token" ] && break
		[ "$try" -lt 200 ] || { echo "m1 gave no token to join with" >&2; exit 1; }
		sleep 3
	done
	flags="$flags --join $first:6174 --token $token"
fi
[ -e /etc/default/shoal ] || (umask 077; echo "SHOAL_FLAGS=\"$flags\"" >/etc/default/shoal)
cd /
rm -rf "$setup"
systemctl daemon-reload
systemctl enable -q shoal
systemctl restart shoal

ready() { shoal node ls 2>/dev/null | awk 'NR > 1 && $2 == "ready" {n++} END {print n + 0}'; }
for _ in $(seq 1 300); do
	shoal node ls 2>/dev/null | awk -v name="$name" '$1 == name && $2 == "ready" {found = 1} END {exit !found}' && break
	sleep 1
done
echo "shoal $version runs on $name; $(ready) of $count machines are ready"

# Whoever sees all machines runs the example. Two may: a submit of the same again changes nothing.
if [ "$(ready)" -ge "$count" ]; then
	shoal image demo --load
	shoal run -f /usr/local/share/shoal/web.compose.yaml
	shoal ps
fi
