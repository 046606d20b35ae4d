#!/bin/bash
# Runs a command beside a libvirtd of its own, in network and mount namespaces of its own: bridges, rules and settings stay off the
# host, and a host without systemd or dbus will do. What libvirt stores lies below build/vagrant/libvirt.
# usage: apart.sh COMMAND...; as root, e.g.  apart.sh bash -c "vagrant up && vagrant ssh m1 -c 'sudo shoal ps'; vagrant destroy -f"
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
if [ "${SHOAL_APART:-}" != 1 ]; then
	[ $# -gt 0 ] || { echo "usage: apart.sh COMMAND..." >&2; exit 2; }
	# The first process of the namespace takes all others with it when it ends. tini reaps: libvirtd counts on it.
	exec env SHOAL_APART=1 unshare --net --mount --pid --fork --kill-child --mount-proc tini -s -- "$(realpath "$0")" "$@"
fi
ip link set lo up
state=$here/build/vagrant/libvirt
mkdir -p "$state"/{var/images,log,cache,pools,domains} /etc/libvirt/{storage,qemu} /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
mount --bind "$state/var" /var/lib/libvirt
mount --bind "$state/log" /var/log/libvirt
mount --bind "$state/cache" /var/cache/libvirt
mount --bind "$state/pools" /etc/libvirt/storage # the host's may name a directory that is not here
mount --bind "$state/domains" /etc/libvirt/qemu
mount -t tmpfs apart /run
mkdir -p /run/libvirt /run/lock
# Without these qemu is probed twenty times for each machine.
printf 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\n' >/run/qemu.conf
mount --bind /run/qemu.conf /etc/libvirt/qemu.conf
printf 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n' >/run/libvirtd.conf
virtlogd -d
libvirtd -d -f /run/libvirtd.conf
for _ in $(seq 1 100); do virsh -q -c qemu:///system list >/dev/null 2>&1 && break; sleep 0.2; done
virsh -q -c qemu:///system list >/dev/null
# The machines come up side by side, and each would make the pool that it misses.
pool() { virsh -q -c qemu:///system "pool-$@" >/dev/null; }
pool info default 2>/dev/null || pool define-as default dir --target /var/lib/libvirt/images
pool start default 2>/dev/null || pool info default
export VAGRANT_HOME=${VAGRANT_HOME:-$here/build/vagrant/home} VAGRANT_DEFAULT_PROVIDER=libvirt
cd "$here"
"$@"
