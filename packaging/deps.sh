#!/bin/sh
# Installs what building, the demo or the tests need on Debian or Ubuntu, and says what. Usage: deps.sh build|test
set -eu

build="gcc libc6-dev libseccomp-dev pkg-config"
demo="iproute2 nftables util-linux procps"
test="busybox-static docker-registry"

case "${1:-}" in
build) want="$build $demo" ;;
test) want="$build $demo $test" ;;
*)
	echo "usage: $0 build|test" >&2
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
	# A registry server would start by itself; the tests start their own.
	apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold $missing >/dev/null
fi
if ! command -v go >/dev/null 2>&1; then
	echo "Go is missing: install the version that go.mod names" >&2
	exit 1
fi
