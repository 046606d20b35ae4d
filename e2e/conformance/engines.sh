# Runs containers with docker and podman over an OCI runtime, in namespaces of its own. Usage: engines.sh RUNTIME DIR BUSYBOX
set -u
runtime=$1 dir=$2 busybox=$3
ip link set lo up
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p "$dir/root/bin"
cp "$busybox" "$dir/root/bin/busybox"
for a in sh echo cat id sleep test; do ln -sf busybox "$dir/root/bin/$a"; done
tar -C "$dir/root" -cf "$dir/root.tar" .

# check NAME WANT COMMAND...: the command's output is WANT, or its exit code where WANT is "exit N".
check() {
	local name=$1 want=$2 got code
	shift 2
	got=$("$@" 2>"$dir/stderr" </dev/null); code=$?
	case $want in "exit "*) got="exit $code" ;; esac
	if [ "$got" = "$want" ]; then
		echo "ok $name"
	else
		echo "not ok $name: got \"$got\" (exit $code), want \"$want\""
		sed 's/^/# /' "$dir/stderr"
	fi
}

# suite ENGINE NETWORK-FLAGS: what people do first with an engine, on the image "box".
suite() {
	local e=$1 flags=$2
	check "$e run" hello $e run --rm $flags box /bin/echo hello
	check "$e run, exit code" "exit 9" $e run --rm $flags box /bin/sh -c 'exit 9'
	check "$e run, no such command" "exit 127" $e run --rm $flags box /bin/nothing
	check "$e run, memory limit" "33554432" $e run --rm $flags --memory 32m box /bin/sh -c \
		'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'
	check "$e run, user" 65 $e run --rm $flags --user 65:65 box /bin/id -u
	check "$e run, read-only root" "exit 1" $e run --rm $flags --read-only box /bin/sh -c 'echo x 2>/dev/null >/f'
	check "$e run -d" "exit 0" $e run -d --name one $flags --cpus 0.5 box /bin/sleep 1000
	check "$e exec" hello $e exec one /bin/echo hello
	check "$e exec, exit code" "exit 7" $e exec one /bin/sh -c 'exit 7'
	check "$e pause" "exit 0" $e pause one
	check "$e inspect, paused" paused $e inspect -f '{{.State.Status}}' one
	check "$e unpause" "exit 0" $e unpause one
	check "$e exec after unpause" again $e exec one /bin/echo again
	check "$e kill" "exit 0" $e kill one
	check "$e wait" 137 $e wait one
	check "$e rm" "exit 0" $e rm one
}

dockerd --data-root "$dir/docker" --exec-root /run/docker --pidfile /run/docker.pid -H "unix://$dir/docker.sock" \
	--add-runtime "shoal=$runtime" --default-runtime shoal --storage-driver overlay2 --log-level error --iptables=false >"$dir/dockerd.log" 2>&1 &
export DOCKER_HOST=unix://$dir/docker.sock DOCKER_CONFIG=$dir/config
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
check "docker info, default runtime" shoal docker info -f '{{.DefaultRuntime}}'
check "docker import" "exit 0" docker import "$dir/root.tar" box
suite docker "--network none"
check "docker update, seen inside" 67108864 sh -c 'docker run -d --name two --memory 32m box /bin/sleep 1000 >/dev/null &&
	docker update --memory 64m --memory-swap 64m two >/dev/null &&
	docker exec two sh -c "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max" && docker rm -f two >/dev/null'

unset DOCKER_CONFIG # podman would read it as well
podman() {
	command podman --root "$dir/podman" --runroot /run/podman --tmpdir /run/libpod --runtime "$runtime" --cgroup-manager cgroupfs --events-backend file "$@"
}
check "podman import" "exit 0" podman import "$dir/root.tar" box
suite podman "--network none"
