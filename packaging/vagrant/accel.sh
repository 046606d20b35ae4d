#!/bin/bash
# Says which accelerator boots a Linux kernel on this machine: kvm or tcg. The device file alone tells nothing: there are
# hosts where /dev/kvm opens and every stock kernel dies. usage: accel.sh VMLINUZ
set -u
kernel=${1:?usage: accel.sh VMLINUZ}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Without a root the kernel panics in the end, having shown that it runs.
if [ -w /dev/kvm ]; then
	timeout -k 1 20 qemu-system-x86_64 -M q35 -accel kvm -cpu host -m 256 -display none -nodefaults -no-reboot -serial "file:$log" \
		-kernel "$kernel" -append "console=ttyS0 panic=-1 no_timer_check" >/dev/null 2>&1
	if grep -q 'Unable to mount root' "$log"; then
		echo kvm
		exit 0
	fi
fi
echo tcg
