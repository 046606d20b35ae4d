package machines

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// vmFiles is what a virtual machine boots from: Debian's kernel for clouds, an initial file system that finds the root,
// and a root of Debian packages without any daemon, which a machine sees below a tmpfs of its own.
type vmFiles struct {
	dir                  string
	kernel, initrd, root string
	helper               string // the way in, for the host's side
	key                  string // changes with whatever changes a booted machine
}

// vmTools are the packages of the root: what tests run inside, and what the set-up takes. Busybox has the rest.
var vmTools = []string{"iproute2", "bash", "coreutils", "util-linux", "mount", "procps", "nftables", "dmsetup", "kmod", "findutils", "grep", "sed", "e2fsprogs", "iputils-ping"}

// vmEarly are the modules that find the root, vmModules those that are loaded before a machine is saved or used; the
// kernel loads others when they are asked for.
var (
	vmEarly   = []string{"virtio_pci", "virtio_blk", "overlay"}
	vmModules = []string{
		"virtio_net", "virtio_rng", "veth", "bridge", "br_netfilter", "vxlan", "macvlan", "tun", "wireguard", "dummy", "loop", "fuse",
		"nf_tables", "nft_chain_nat", "nft_masq", "nft_redir", "nft_ct", "nft_reject_inet", "nft_fib_inet", "nft_numgen", "nf_conntrack", "nft_limit",
		"sch_netem", "sch_tbf", "sch_htb", "sch_ingress", "ifb", "dm_mod", "dm_flakey", "dm_delay", "dm_log_writes", "dm_snapshot",
	}
)

// makeVMFiles makes what is not there yet, in the build directory of the repository. It asks the package archive for the
// kernel and the tools the first time.
func makeVMFiles() (*vmFiles, error) {
	for tool, pkg := range map[string]string{"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs", "zstd": "zstd", "depmod": "kmod", "go": "Go"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: %s is missing: run packaging/deps.sh vm (it is of %s)", ErrNoVM, tool, pkg)
		}
	}
	build, err := buildDir()
	if err != nil {
		return nil, err
	}
	f := &vmFiles{dir: filepath.Join(build, "vm")}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := f.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	f.helper = filepath.Join(f.dir, "shoal-vm")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", f.helper, "shoal/e2e/vm/shoal-vm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the way into virtual machines: %w: %s", err, out)
	}
	version, kernel, err := kernelTree()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoVM, err)
	}
	tools, err := DebianTree(vmTools...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoVM, err)
	}
	helper, err := os.ReadFile(f.helper)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprint(h, version, tools, vmEarly, vmModules, vmInit, vmBoot, vmTab)
	h.Write(helper)
	f.key = hex.EncodeToString(h.Sum(nil)[:6])
	f.kernel = filepath.Join(kernel, "boot", "vmlinuz-"+version)
	f.initrd, f.root = filepath.Join(f.dir, "initrd-"+f.key), filepath.Join(f.dir, "root-"+f.key)
	if _, err := os.Stat(f.root); err == nil {
		return f, nil
	}
	f.sweep()
	if err := f.make(version, kernel, tools, helper); err != nil {
		return nil, fmt.Errorf("make the files of virtual machines: %w", err)
	}
	return f, nil
}

// sweep removes what earlier versions of the files have left.
func (f *vmFiles) sweep() {
	for _, pattern := range []string{"initrd-*", "root-*", "state-*"} {
		old, _ := filepath.Glob(filepath.Join(f.dir, pattern)) // the pattern is right
		for _, path := range old {
			_ = os.Remove(path) // a machine that uses it has it open
		}
	}
}

// lock keeps others, in other processes too, from making the same at the same time.
func (f *vmFiles) lock() (unlock func(), err error) {
	l, err := os.OpenFile(filepath.Join(f.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(l.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return func() { _ = l.Close() }, nil
}

// kernelTree unpacks the kernel that Debian has for clouds today.
func kernelTree() (version, root string, err error) {
	const meta = "linux-image-cloud-amd64"
	records, err := aptShow([]string{meta})
	if err != nil {
		if err := aptGet(os.TempDir(), "update", "-qq"); err != nil {
			return "", "", err
		}
		if records, err = aptShow([]string{meta}); err != nil {
			return "", "", err
		}
	}
	for _, r := range records {
		pkg := packageName.FindString(r["Depends"])
		if version, ok := strings.CutPrefix(pkg, "linux-image-"); ok {
			root, err := DebianTree(pkg)
			return version, root, err
		}
	}
	return "", "", fmt.Errorf("%s names no kernel", meta)
}

// vmInit runs first of all: it finds the root.
const vmInit = `#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read m; do insmod /modules/$m || echo "cannot load $m"; done </modules/list
mount -t ext4 -o ro /dev/vda /lower
mount -t tmpfs -o size=50% upper /upper
mkdir /upper/u /upper/w
mount -t overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w root /root
for d in proc sys dev; do mount -o move /$d /root/$d; done
exec switch_root /root /sbin/init
`

// vmBoot brings up what all machines have in common, before one is told which it is.
const vmBoot = `#!/bin/sh
mount -o remount,rshared / 2>/dev/null || mount --make-rshared /
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
for c in cpu cpuset memory pids io; do echo +$c >/sys/fs/cgroup/cgroup.subtree_control; done
modprobe -a $(cat /etc/vm-modules)
echo 1 >/proc/sys/kernel/sysrq
ln -sf /proc/self/fd /dev/fd; ln -sf fd/0 /dev/stdin; ln -sf fd/1 /dev/stdout; ln -sf fd/2 /dev/stderr
ip link set lo up
`

// vmTab is busybox init's: it reaps what becomes its child, and keeps the way in open.
const vmTab = `::sysinit:/etc/vm-boot
::respawn:/sbin/shoal-vm serve /dev/ttyS1
`

func (f *vmFiles) make(version, kernel, tools string, helper []byte) error {
	tree, err := os.MkdirTemp(f.dir, ".root-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	modules := filepath.Join(tree, "lib", "modules")
	if err := run("cp", "-a", tools+"/.", tree); err != nil {
		return err
	}
	for _, dir := range []string{"usr/share", "usr/include", "var/lib/dpkg"} {
		if err := os.RemoveAll(filepath.Join(tree, dir)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return err
	}
	if err := run("cp", "-a", filepath.Join(kernel, "lib", "modules", version), modules); err != nil {
		return err
	}
	if err := run("depmod", "-b", tree, version); err != nil {
		return err
	}
	if err := os.Chmod(tree, 0o755); err != nil {
		return err
	}
	if err := fillRoot(tree, helper); err != nil {
		return err
	}
	if err := writeInitrd(f.initrd, filepath.Join(modules, version)); err != nil {
		return err
	}
	if err := run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", tree, f.root+".part", "400M"); err != nil {
		return err
	}
	return os.Rename(f.root+".part", f.root)
}

func fillRoot(tree string, helper []byte) error {
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "root", "mnt", "etc", "bin", "sbin", "var/lib", "var/tmp", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("busybox is missing: install busybox-static: %w", err)
	}
	files := []struct {
		path string
		data []byte
		mode os.FileMode
	}{
		{"bin/busybox", busybox, 0o755}, {"sbin/shoal-vm", helper, 0o755}, {"etc/vm-boot", []byte(vmBoot), 0o755}, {"etc/inittab", []byte(vmTab), 0o644},
		{"etc/vm-modules", []byte(strings.Join(vmModules, " ")), 0o644},
		{"etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"), 0o644},
		{"etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"), 0o644}, {"etc/resolv.conf", nil, 0o644},
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(tree, f.path), f.data, f.mode); err != nil {
			return err
		}
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(applets)) {
		there := slices.ContainsFunc([]string{"bin", "sbin", "usr/bin", "usr/sbin"}, func(dir string) bool {
			_, err := os.Lstat(filepath.Join(tree, dir, name))
			return err == nil
		})
		if there {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(tree, "bin", name)); err != nil {
			return err
		}
	}
	return os.Symlink("../bin/busybox", filepath.Join(tree, "sbin", "init"))
}

// writeInitrd writes busybox, vmInit and the modules that it loads as a cpio archive of the kind newc; see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. It is not compressed: unpacking is what costs in an
// emulated processor.
func writeInitrd(path, modules string) error {
	order, err := moduleOrder(modules, vmEarly)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	ino := 0
	add := func(name string, mode int, data []byte) {
		ino++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		pad := func() { b.Write(make([]byte, (4-b.Len()%4)%4)) }
		pad()
		b.Write(data)
		pad()
	}
	for _, d := range []string{"bin", "dev", "proc", "sys", "lower", "upper", "root", "modules"} {
		add(d, 0o40755, nil)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	add("bin/busybox", 0o100755, busybox)
	for _, applet := range []string{"sh", "mount", "insmod", "mkdir", "switch_root", "echo"} {
		add("bin/"+applet, 0o120777, []byte("busybox"))
	}
	var list strings.Builder
	for _, m := range order {
		data, err := os.ReadFile(filepath.Join(modules, m))
		if err != nil {
			return err
		}
		add("modules/"+filepath.Base(m), 0o100644, data)
		list.WriteString(filepath.Base(m) + "\n")
	}
	add("modules/list", 0o100644, []byte(list.String()))
	add("init", 0o100755, []byte(vmInit))
	add("TRAILER!!!", 0, nil)
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// moduleOrder lists the files of modules and of what they need, in the order in which they can be loaded.
func moduleOrder(dir string, names []string) ([]string, error) {
	f, err := os.Open(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	needs, path := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(string(b)) {
		file, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[file] = strings.Fields(deps)
		path[strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")] = file
	}
	var order []string
	for _, name := range names {
		file := path[name]
		if file == "" {
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
		deps := slices.Clone(needs[file])
		slices.Reverse(deps) // the file names them from the nearest to the farthest
		for _, m := range append(deps, file) {
			if !slices.Contains(order, m) {
				order = append(order, m)
			}
		}
	}
	return order, nil
}
