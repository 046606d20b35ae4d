#!/bin/bash
# Builds a Vagrant box for libvirt out of Debian's packages: Debian 12 with systemd on cgroup v2, nothing of shoal in it.
# usage: box.sh OUTPUT.box; as root. It finds out too whether KVM truly boots a kernel here, and writes kvm or tcg into
# OUTPUT's directory as "accel", which the Vagrantfile reads.
set -euo pipefail
out=$(realpath -m "${1:?usage: box.sh OUTPUT.box}")
here=$(cd "$(dirname "$0")" && pwd)
dir=$(dirname "$out")
mkdir -p "$dir"
work=$(mktemp -d "$dir/box.XXXXXX")
cleanup() { umount -q "$work/mnt" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
key=$(cat /usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub | tail -n 1)

echo "== packages"
mmdebstrap --variant=minbase --include=systemd,systemd-sysv,udev,dbus,kmod,ifupdown,isc-dhcp-client,openssh-server,sudo,nftables,iproute2,procps,rsync,ca-certificates,linux-image-cloud-amd64,initramfs-tools,busybox \
	--aptopt='Apt::Install-Recommends "false"' \
	--customize-hook='printf "virtio_pci\nvirtio_blk\nvirtio_scsi\nvirtio_net\nsd_mod\next4\n" >>"$1/etc/initramfs-tools/modules"; sed -i "s/^MODULES=.*/MODULES=list/" "$1/etc/initramfs-tools/initramfs.conf"; chroot "$1" update-initramfs -u' \
	bookworm "$work/root.tar" 2>"$work/log" || { tail -n 30 "$work/log" >&2; exit 1; }

echo "== settings"
mkdir "$work/root" "$work/mnt"
tar -xf "$work/root.tar" -C "$work/root" --exclude='./dev/*'
rm "$work/root.tar"
r=$work/root
chroot "$r" useradd -m -s /bin/bash vagrant
echo 'vagrant:vagrant' | chroot "$r" chpasswd
install -d -m 700 "$r/home/vagrant/.ssh"
echo "$key" >"$r/home/vagrant/.ssh/authorized_keys"
chmod 600 "$r/home/vagrant/.ssh/authorized_keys"
chroot "$r" chown -R vagrant: /home/vagrant/.ssh
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$r/etc/sudoers.d/vagrant"
chmod 440 "$r/etc/sudoers.d/vagrant"
printf 'UseDNS no\nPermitRootLogin no\n' >"$r/etc/ssh/sshd_config.d/vagrant.conf"
rm -f "$r"/etc/ssh/ssh_host_*
cat >"$r/etc/systemd/system/ssh-host-keys.service" <<'UNIT'
[Unit]
Description=host keys of this very machine
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
[Install]
WantedBy=multi-user.target
UNIT
for unit in ssh-host-keys ssh; do chroot "$r" systemctl -q enable $unit; done
chroot "$r" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-timesyncd 2>/dev/null || true
echo 'LABEL=shoal / ext4 errors=remount-ro 0 1' >"$r/etc/fstab"
printf 'auto lo\niface lo inet loopback\nsource-directory /etc/network/interfaces.d\nallow-hotplug eth0\niface eth0 inet dhcp\n' >"$r/etc/network/interfaces"
echo shoal-box >"$r/etc/hostname"
: >"$r/etc/machine-id"
rm -rf "$r"/var/cache/apt/* "$r"/var/lib/apt/lists/* "$r"/usr/share/doc/* "$r"/usr/share/man/* "$r"/usr/share/locale/*
mkdir -p "$r/boot/extlinux"
kernel=$(basename "$r"/boot/vmlinuz-*)
cat >"$r/boot/extlinux/extlinux.conf" <<CONF
DEFAULT linux
PROMPT 0
LABEL linux
  LINUX /boot/$kernel
  INITRD /boot/initrd.img-${kernel#vmlinuz-}
  APPEND root=LABEL=shoal ro console=ttyS0 quiet net.ifnames=0 mitigations=off no_timer_check nowatchdog audit=0
CONF

echo "== disk"
disk=$work/disk.raw size=1500 # MiB
truncate -s ${size}M "$disk"
printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk -q "$disk"
dd if=/usr/lib/EXTLINUX/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
# extlinux reads no ext4 of 64 bits.
mke2fs -q -t ext4 -O '^64bit,^metadata_csum' -L shoal -d "$r" -E offset=1048576 "$disk" $((size - 1))M
mount -o loop,offset=1048576 "$disk" "$work/mnt"
extlinux --install "$work/mnt/boot/extlinux" >/dev/null 2>&1 || { echo "extlinux cannot be installed" >&2; exit 1; }
umount "$work/mnt"
qemu-img convert -c -O qcow2 "$disk" "$work/box.img"

echo "== accelerator"
cp "$r/boot/$kernel" "$dir/vmlinuz"
"$here/accel.sh" "$dir/vmlinuz" >"$dir/accel"
echo "machines will run with $(cat "$dir/accel")"

echo "== box"
echo "{\"provider\":\"libvirt\",\"format\":\"qcow2\",\"virtual_size\":2}" >"$work/metadata.json"
printf 'Vagrant.configure("2") do |config|\n  config.vm.provider :libvirt do |v|\n    v.disk_bus = "virtio"\n  end\nend\n' >"$work/Vagrantfile"
tar -C "$work" -cf "$out.part" metadata.json Vagrantfile box.img
mv "$out.part" "$out"
echo "$out: $(($(stat -c %s "$out") >> 20)) MiB"
