#!/bin/sh
# Installs what building, the demo, the tests or the comparisons with others need on Debian or Ubuntu, and says what.
# Usage: deps.sh build|test|bench|conformance|vm|vagrant|validate
set -eu

build="gcc libc6-dev libseccomp-dev pkg-config"
demo="iproute2 nftables util-linux procps"
test="busybox-static docker-registry umoci skopeo strace e2fsprogs"
# What `make bench` compares with. docker.io brings dockerd, containerd and runc.
bench="busybox-static runc crun docker.io iptables"
# What `make conformance` judges with: engines that run containers over shoal oci.
conformance="busybox-static docker.io podman tar"

# What machines with kernels of their own run in; the kernel itself is downloaded, not installed.
vm="busybox-static qemu-system-x86 kmod zstd e2fsprogs"
# What `make vagrant-box` builds with, and what boots the box where libvirt is not there yet.
vagrant="vagrant vagrant-libvirt libvirt-daemon libvirt-daemon-system libvirt-clients dnsmasq-base mmdebstrap fdisk extlinux
 syslinux-common tini qemu-system-x86 qemu-utils openssh-client"

case "${1:-}" in
build) want="$build $demo" ;;
test) want="$build $demo $test" ;;
bench) want="$build $demo $bench" ;;
conformance) want="$build $demo $conformance" ;;
vm) want="$build $demo $vm" ;;
vagrant) want="$build $demo $vagrant" ;;
validate) want="vagrant" ;;
*)
	echo "usage: $0 build|test|bench|conformance|vm|vagrant|validate" >&2
	exit 2
	;;
esac

missing=""
for p in $want; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "these packages are missing:$missing" >&2
		echo "install them (apt-get install$missing), or run make as root" >&2
		exit 1
	fi
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# Servers (a registry, docker) would start by themselves: tests and benchmarks start their own, in namespaces.
	undo=:
	trap 'eval "$undo"' EXIT
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
		undo="rm -f /usr/sbin/policy-rc.d"
	fi
	# On slow machines the index of manual pages takes minutes, and nobody reads them here.
	if [ -e /var/lib/man-db/auto-update ]; then
		mv /var/lib/man-db/auto-update /var/lib/man-db/auto-update.off
		undo="$undo; mv /var/lib/man-db/auto-update.off /var/lib/man-db/auto-update"
	fi
	apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold $missing >/dev/null
fi
need=$(sed -n 's/^go //p' "$(dirname "$0")/../go.mod")
if ! command -v go >/dev/null 2>&1; then
	echo "Go is missing: install $need, or any from 1.21 on, which fetches $need by itself" >&2
	exit 1
fi
# Outside of the module, where no Go minds what go.mod asks for.
have=$(cd / && GOTOOLCHAIN=local go version | cut -d ' ' -f 3)
fetch=$(cd / && go env GOTOOLCHAIN) # nothing before 1.21
# from A B: is B at least A?
from() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; }
case "$have" in
go1.*)
	if ! from "$need" "${have#go}" && { ! from 1.21 "${have#go}" || [ "$fetch" = local ]; }; then
		echo "Go is too old: $(command -v go) is ${have#go}; install $need, or any from 1.21 on, which fetches $need by itself unless GOTOOLCHAIN=local" >&2
		exit 1
	fi
	;;
esac # one built from its source knows best
