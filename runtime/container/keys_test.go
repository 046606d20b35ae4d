package container_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// inside runs a script in a new container with the given settings and gives its output by line.
func (r *rig) inside(id runtime.ID, s runtime.Spec, script string) []string {
	r.Helper()
	s.ID, s.Name, s.Command = id, string(id), []string{"sh", "-c", script}
	r.create(s)
	if _, err := r.rt.Start(r.Context(), id); err != nil {
		r.Fatal(err)
	}
	if in := r.stopped(id); in.ExitCode != 0 {
		r.Errorf("%s: %+v: %q", id, in, r.lines(id, runtime.LogQuery{}))
	}
	return r.lines(id, runtime.LogQuery{})
}

// wantLines compares by line and names the ones that differ.
func (r *rig) wantLines(got []string, want ...string) {
	r.Helper()
	for i, w := range want {
		g := "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if !strings.HasPrefix(g, w) {
			r.Errorf("line %d is %q, want %q", i, g, w)
		}
	}
	if len(got) > len(want) {
		r.Errorf("more lines than expected: %q", got[len(want):])
	}
}

func v1(t testing.TB, controller string) string {
	dir := "/sys/fs/cgroup/" + controller
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no cgroup v1 hierarchy of %s here: on v2 see stage's tests of the configuration", controller)
	}
	return dir
}

func TestSettingsOfOneContainer(t *testing.T) {
	r := newRig(t)
	mask := uint32(0o027)
	got := r.inside("many", runtime.Spec{
		User: "web", Hostname: "many",
		Isolation: &runtime.Isolation{
			NewPrivileges: true,
			Groups:        []string{"44", "extra"},
			Sysctls:       map[string]string{"net.core.somaxconn": "1234", "kernel.shmmax": "1048576"},
			Ulimits:       []runtime.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}, {Name: "core", Soft: 0, Hard: 0}},
			Umask:         &mask,
			Devices:       []runtime.Device{{Source: "/dev/zero", Target: "/dev/null2", Access: "r"}, {Source: "/dev/loop0", Target: "/dev/lo", Access: "rwm"}},
			Seccomp:       `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}`,
			AppArmor:      runtime.Unconfined,
		},
		Tuning: &runtime.Tuning{ShmBytes: 1 << 20, OOMScore: 321},
		Naming: &runtime.Naming{
			Domain: "corp.example", MAC: "02:42:ac:11:65:43", DNSSearch: []string{"corp.example"}, DNSOptions: []string{"ndots:3"},
			Hosts: []runtime.Host{{Name: "db", Address: "10.0.0.7"}, {Name: "node", Address: runtime.HostGateway}},
		},
		Mounts: []runtime.Mount{{Type: runtime.MountTmpfs, Target: "/scratch", SizeBytes: 8 << 20, Mode: 0o750, Options: "exec,uid=1000,gid=1001"}},
	}, `
		grep NoNewPrivs /proc/self/status
		id -G
		cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmax
		ulimit -n; ulimit -Hn; ulimit -c
		umask
		stat -c '%t:%T' /dev/null2 /dev/lo
		mkdir /tmp/x 2>&1
		df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2
		cat /proc/self/oom_score_adj
		cat /proc/sys/kernel/domainname
		cat /sys/class/net/eth0/address
		tail -3 /etc/hosts | tr '\t' ' ' | sed 's/^10.231.0.[0-9]* many/ADDR many/'
		grep -v nameserver /etc/resolv.conf
		cp /bin/busybox /scratch/echo && /scratch/echo ran
		stat -c '%u:%g %a' /scratch
		true`)
	r.wantLines(got, "NoNewPrivs:\t0", "1001 44 1005", "1234", "1048576", "100", "200", "0", "0027", "1:5", "7:0",
		"mkdir: can't create directory '/tmp/x': Operation not supported", "1024", "321", "corp.example", "02:42:ac:11:65:43",
		"ADDR many.corp.example many", "10.0.0.7 db", "10.231.0.1 node", "search corp.example", "options ndots:3", "ran", "1000:1001 750")
}

func TestPrivilegedContainerHasTheMachine(t *testing.T) {
	r := newRig(t)
	got := r.inside("mighty", runtime.Spec{CapDrop: []string{"ALL"}, Isolation: &runtime.Isolation{Privileged: true, NewPrivileges: true}}, `
		grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status | tr '\t' ' '
		test -e /dev/loop0 && echo loop
		dd if=/dev/loop-control of=/dev/null count=0 2>/dev/null && echo open
		mkdir /mnt && mount -t tmpfs none /mnt && echo mounted
		touch /proc/sys/kernel/domainname 2>&1 && echo writable
		grep -c ' /proc/kcore ' /proc/self/mountinfo
		true`)
	own, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(own)) {
		if strings.HasPrefix(line, "CapBnd") {
			line = strings.Replace(strings.TrimSpace(line), "CapBnd:\t", "CapEff: ", 1)
			if len(got) == 0 || got[0] != line {
				t.Errorf("capabilities %q, want the machine's %q", got, line)
			}
		}
	}
	r.wantLines(got[1:], "NoNewPrivs: 0", "Seccomp: 0", "loop", "open", "mounted", "writable", "0")
}

func TestNamespacesOfTheMachine(t *testing.T) {
	r := newRig(t)
	link := func(ns string) string {
		s, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	got := r.inside("host", runtime.Spec{
		Network: runtime.NetworkHost,
		Isolation: &runtime.Isolation{
			PID: runtime.ModeHost, IPC: runtime.ModeHost, UTS: runtime.ModeHost, Seccomp: runtime.Unconfined,
		},
	}, `for n in net pid ipc uts; do readlink /proc/self/ns/$n; done; grep Seccomp: /proc/self/status; sleep 600 & true`)
	r.wantLines(got, link("net"), link("pid"), link("ipc"), link("uts"), "Seccomp:\t0")
	// What it left running in the machine's process namespace has ended with it.
	r.eventually("no process is left", func() bool {
		procs, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup/pids", r.cgroup, "host", "cgroup.procs"))
		return len(procs) == 0
	})

	got = r.inside("alone", runtime.Spec{Network: runtime.NetworkNone, Isolation: &runtime.Isolation{IPC: runtime.ModeNone}},
		`ls /sys/class/net; test -e /dev/shm/. || echo no shm; hostname`)
	r.wantLines(got, "lo", "no shm", "alone")
	if in := r.inspect("alone"); in.Address.IsValid() {
		t.Errorf("a container without a network has address %v", in.Address)
	}
}

func TestJoinedNamespaces(t *testing.T) {
	r := newRig(t)
	main := r.shell("main", "echo hello > /dev/shm/word; sleep 600")
	spec := runtime.Spec{
		Network:   runtime.Joining("main"),
		Isolation: &runtime.Isolation{PID: runtime.Joining("main"), IPC: runtime.Joining("main")},
	}
	r.eventually("word", func() bool { return len(r.read("main", "/dev/shm/word")) > 0 })
	got := r.inside("side", spec, `
		for n in net pid ipc uts; do readlink /proc/self/ns/$n; done
		cat /dev/shm/word
		ps | grep -c '[s]leep 600'
		ip -4 addr show eth0 | grep -o 'inet [0-9.]*'`)
	var want []string
	for _, ns := range []string{"net", "pid", "ipc"} {
		l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", main.PID, ns))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, l)
	}
	r.wantLines(got, append(want, "uts:", "hello", "1", "inet "+main.Address.String())...)
	in := r.inspect("side")
	if in.Address != main.Address || in.Joined["main"] != 1 {
		t.Errorf("address %v (want %v), joined %v", in.Address, main.Address, in.Joined)
	}
	if err := r.rt.Stop(t.Context(), "main", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.rt.Start(t.Context(), "side"); !errors.Is(err, runtime.ErrBusy) {
		t.Errorf("start beside a container that has ended: %v, want ErrBusy", err)
	}
	if _, err := r.rt.Start(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.rt.Start(t.Context(), "side"); err != nil {
		t.Fatal(err)
	}
	if in := r.stopped("side"); in.Joined["main"] != 2 {
		t.Errorf("joined %v, want the second start of main", in.Joined)
	}
}

func TestTuningReachesTheCgroup(t *testing.T) {
	r := newRig(t)
	memory, cpu := v1(t, "memory"), v1(t, "cpu")
	swappiness := int64(7)
	parent := r.cgroup + "-parent"
	t.Cleanup(func() {
		for _, d := range mustGlob("/sys/fs/cgroup/*/" + parent) {
			os.Remove(d)
		}
	})
	if in := r.create(runtime.Spec{
		ID: "tuned", Command: []string{"sleep", "600"},
		Resources: runtime.Resources{NanoCPUs: 500_000_000, MemoryBytes: 64 << 20, MemoryReservationBytes: 32 << 20},
		Tuning: &runtime.Tuning{
			CgroupParent: "/" + parent, CPUSet: "0", CPUShares: 512, CPUPeriod: 50_000, SwapBytes: 128 << 20, Swappiness: &swappiness,
			BlockIO: &runtime.BlockIO{Weight: 300, ReadBps: []runtime.DeviceRate{{Path: "/dev/loop0", Rate: 1 << 20}}, WriteIOps: []runtime.DeviceRate{{Path: "/dev/loop0", Rate: 99}}},
		},
		Isolation: &runtime.Isolation{DeviceRules: []string{"c 10:200 rwm"}},
	}); len(in.Warnings) > 1 {
		t.Errorf("warnings %q", in.Warnings)
	}
	if _, err := r.rt.Start(t.Context(), "tuned"); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct{ file, want string }{
		{cpu + "/%s/cpu.shares", "512"}, {cpu + "/%s/cpu.cfs_period_us", "50000"}, {cpu + "/%s/cpu.cfs_quota_us", "25000"},
		{"/sys/fs/cgroup/cpuset/%s/cpuset.cpus", "0"},
		{memory + "/%s/memory.limit_in_bytes", "67108864"}, {memory + "/%s/memory.soft_limit_in_bytes", "33554432"},
		{memory + "/%s/memory.swappiness", "7"},
		{"/sys/fs/cgroup/blkio/%s/blkio.throttle.read_bps_device", "7:0 1048576"},
		{"/sys/fs/cgroup/blkio/%s/blkio.throttle.write_iops_device", "7:0 99"},
		{"/sys/fs/cgroup/blkio/%s/blkio.bfq.weight", "300"},
		{memory + "/%s/memory.memsw.limit_in_bytes", "134217728"},
	} {
		file := fmt.Sprintf(f.file, parent+"/tuned")
		got, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			t.Logf("this kernel has no %s", file)
			continue
		}
		if strings.TrimSpace(string(got)) != f.want {
			t.Errorf("%s: %q (%v), want %s", file, got, err, f.want)
		}
	}
	devices, _ := os.ReadFile("/sys/fs/cgroup/devices/" + parent + "/tuned/devices.list")
	if !strings.Contains(string(devices), "c 10:200 rwm") {
		t.Errorf("devices %q", devices)
	}
	// The next agent finds and removes it there.
	r.close()
	r.open()
	if err := r.rt.Remove(t.Context(), "tuned"); err != nil {
		t.Fatal(err)
	}
	if left := mustGlob("/sys/fs/cgroup/*/" + parent + "/tuned"); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

func mustGlob(pattern string) []string {
	found, err := filepath.Glob(pattern)
	if err != nil {
		panic(err)
	}
	return found
}

func TestWhatThisMachineCannotDoIsSaidAtCreate(t *testing.T) {
	r := newRig(t)
	host, _ := os.Hostname()
	for _, c := range []struct {
		name, want string
		s          runtime.Spec
	}{
		{"cpuset", "cpuset: 4000: node " + host + " cannot: its processors are", runtime.Spec{Tuning: &runtime.Tuning{CPUSet: "4000"}}},
		{"device", "devices: /dev/absent: node " + host + " cannot: no such file", runtime.Spec{Isolation: &runtime.Isolation{Devices: []runtime.Device{{Source: "/dev/absent", Target: "/dev/x", Access: "r"}}}}},
		{"file", "devices: /etc/passwd: node " + host + " cannot: it is not a device", runtime.Spec{Isolation: &runtime.Isolation{Devices: []runtime.Device{{Source: "/etc/passwd", Target: "/dev/x", Access: "r"}}}}},
		{"blkio", "blkio_config: /dev/null: node " + host + " cannot: it is not a block device", runtime.Spec{Tuning: &runtime.Tuning{BlockIO: &runtime.BlockIO{ReadBps: []runtime.DeviceRate{{Path: "/dev/null", Rate: 1}}}}}},
		{"sysctl", "sysctls: kernel.shm_absent: node " + host + " cannot: its kernel has no", runtime.Spec{Isolation: &runtime.Isolation{Sysctls: map[string]string{"kernel.shm_absent": "1"}}}},
		{"apparmor", "security_opt: apparmor=absent: node " + host + " cannot", runtime.Spec{Isolation: &runtime.Isolation{AppArmor: "absent"}}},
	} {
		c.s.ID, c.s.Image = runtime.ID(c.name), testImage
		_, err := r.rt.Create(t.Context(), c.s)
		if !errors.Is(err, runtime.ErrDenied) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := r.rt.Create(t.Context(), runtime.Spec{ID: "x", Image: testImage, Isolation: &runtime.Isolation{Seccomp: `{"defaultAction":7}`}}); !errors.Is(err, runtime.ErrInvalid) {
		t.Errorf("a seccomp profile that is none: %v", err)
	}
}

func TestVolumesSubpathPropagationAndFirstUse(t *testing.T) {
	r := newRig(t)
	// First use: what the image has there is copied, with its owner; the second container finds what is there.
	fill := runtime.Mount{Type: runtime.MountVolume, Source: "accounts", Target: "/etc"}
	got := r.inside("first", runtime.Spec{Mounts: []runtime.Mount{fill}}, `grep -c web /etc/passwd; mkdir -p /etc/sub/dir; echo here > /etc/sub/dir/file; ln -s / /etc/out`)
	r.wantLines(got, "1")
	got = r.inside("part", runtime.Spec{Mounts: []runtime.Mount{
		{Type: runtime.MountVolume, Source: "accounts", Target: "/sub", Subpath: "sub/dir", ReadOnly: true},
		{Type: runtime.MountVolume, Source: "accounts", Target: "/one", Subpath: "sub/dir/file"},
		{Type: runtime.MountVolume, Source: "empty", Target: "/bin2", NoCopy: true},
	}}, `cat /sub/file /one; touch /sub/x 2>&1; ls /bin2 | wc -l`)
	r.wantLines(got, "here", "here", "touch: /sub/x: Read-only file system", "0")
	for _, path := range []string{"absent", "out/etc/absent"} {
		s := runtime.Spec{ID: runtime.ID("bad-" + path[:3]), Mounts: []runtime.Mount{{Type: runtime.MountVolume, Source: "accounts", Target: "/sub", Subpath: path}}}
		r.create(s)
		if _, err := r.rt.Start(t.Context(), s.ID); !errors.Is(err, runtime.ErrInvalid) || !strings.Contains(err.Error(), "make it first") {
			t.Errorf("subpath %s: %v", path, err)
		}
	}

	// Mounts that the machine makes later come in by rslave; those of the container go out by rshared.
	shared := filepath.Join(r.dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Mount(shared, shared, "", unix.MS_BIND, ""), unix.Mount("", shared, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(shared+"/in", unix.MNT_DETACH); unix.Unmount(shared, unix.MNT_DETACH) })
	for _, d := range []string{"in", "out", "below"} {
		os.Mkdir(filepath.Join(shared, d), 0o755)
	}
	bind := func(p string) []runtime.Mount {
		return []runtime.Mount{{Type: runtime.MountBind, Source: shared, Target: "/s", Propagation: p}}
	}
	r.create(runtime.Spec{ID: "slave", Mounts: bind("rslave"), Command: []string{"sleep", "600"}})
	r.create(runtime.Spec{ID: "plain", Mounts: bind(""), Command: []string{"sleep", "600"}})
	r.create(runtime.Spec{ID: "out", Mounts: bind("rshared"), Command: []string{"sh", "-c", "mount -t tmpfs none /s/out && touch /s/out/mark && sleep 600"}, Isolation: &runtime.Isolation{Privileged: true}})
	for _, id := range []runtime.ID{"slave", "plain", "out"} {
		if _, err := r.rt.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(unix.Mount("tmpfs", shared+"/in", "tmpfs", 0, ""), os.WriteFile(shared+"/in/mark", []byte("new"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if got := r.read("slave", "/s/in/mark"); got != "new" {
		t.Errorf("with rslave it sees %q, want the machine's mount", got)
	}
	if got := r.read("plain", "/s/in/mark"); got != "" {
		t.Errorf("with rprivate it sees %q", got)
	}
	r.eventually("a mount of the container is seen on the machine", func() bool {
		_, err := os.Stat(shared + "/out/mark")
		return err == nil
	})
	if err := r.rt.Remove(t.Context(), "out"); err != nil {
		t.Fatal(err)
	}
	unix.Unmount(shared+"/out", unix.MNT_DETACH)
}

// read gives a file of a running container, "" if it has none.
func (r *rig) read(id runtime.ID, path string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", r.inspect(id).PID, path))
	if err != nil {
		return ""
	}
	return string(b)
}

func TestNoLogIsKept(t *testing.T) {
	r := newRig(t)
	r.create(runtime.Spec{ID: "quiet", Command: []string{"sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; exit 3"}, Log: runtime.LogLimits{None: true}})
	if _, err := r.rt.Start(t.Context(), "quiet"); err != nil {
		t.Fatal(err)
	}
	if in := r.stopped("quiet"); in.ExitCode != 3 {
		t.Errorf("%+v", in)
	}
	err := r.rt.Logs(t.Context(), "quiet", runtime.LogQuery{}, func(runtime.LogLine) error { return nil })
	if !errors.Is(err, runtime.ErrInvalid) || !strings.Contains(err.Error(), "none") {
		t.Errorf("logs: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(r.dir, "containers", "quiet", "log", "*"))
	for _, f := range files {
		if st, err := os.Stat(f); err == nil && st.Size() > 0 {
			t.Errorf("%s has %d bytes", f, st.Size())
		}
	}
}

func TestUsersOfItsOwn(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(r.dir, "bound")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	spec := runtime.Spec{
		Init:      true,
		Isolation: &runtime.Isolation{UserNS: runtime.UserNSAuto},
		Mounts: []runtime.Mount{
			{Type: runtime.MountBind, Source: dir, Target: "/bound"},
			{Type: runtime.MountVolume, Source: "uv", Target: "/etc"},
		},
	}
	got := r.inside("rootless", spec, `
		id -u
		cat /proc/self/uid_map | tr -s ' '
		stat -c %u /bin/busybox /bound/mine /etc/passwd /etc/hosts
		touch /root-file /bound/new /etc/new && stat -c %u /root-file /bound/new
		su web -c 'id -u; touch /tmp/web'; stat -c %u /tmp/web
		chown 5:6 /root-file && stat -c %u /root-file
		ping -c1 -W1 10.231.0.1 >/dev/null 2>&1 || true
		cat /sys/class/net/eth0/operstate
		echo > /dev/null && echo null`)
	r.wantLines(got, "0", " 0 1879048192 65536", "0", "0", "0", "0", "0", "0", "1000", "1000", "5", "up", "null")
	var st unix.Stat_t
	for file, want := range map[string]uint32{
		filepath.Join(dir, "new"): 0, filepath.Join(r.dir, "containers/rootless/upper/root-file"): 0x70000000 + 5,
	} {
		if err := unix.Stat(file, &st); err != nil || st.Uid != want {
			t.Errorf("%s belongs to %d (%v), want %d", file, st.Uid, err, want)
		}
	}
	// Another start of it, another container, and an exec.
	if _, err := r.rt.Start(t.Context(), "rootless"); err != nil {
		t.Fatal(err)
	}
	r.stopped("rootless")
	spec.ID, spec.Command = "second", []string{"sleep", "600"}
	r.create(spec)
	if _, err := r.rt.Start(t.Context(), "second"); err != nil {
		t.Fatal(err)
	}
	r.close()
	r.open() // who comes later knows which users are taken
	out, code := r.exec("second", "cat", "/proc/self/uid_map")
	if f := strings.Fields(out); code != 0 || len(f) != 3 || f[1] != "1879113728" {
		t.Errorf("exec in the second: %q, %d", out, code)
	}
	if err := r.rt.Remove(t.Context(), "rootless"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"1879048192", "1879179264"} { // the range that became free, then a new one
		spec.Init, spec.Mounts = false, nil
		got := r.inside(runtime.ID(fmt.Sprintf("later%d", i)), spec, "tr -s ' ' < /proc/self/uid_map | cut -d' ' -f3")
		r.wantLines(got, want)
	}
}
