package container_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/image"
)

func TestContainerHasDockersHabits(t *testing.T) {
	signal.Ignore(unix.SIGHUP) // as nohup leaves it to an agent; a container must not have it
	t.Cleanup(func() { signal.Reset(unix.SIGHUP) })
	r := newRig(t)
	r.run(runtime.Spec{ID: "habits", Command: []string{"sleep", "600"}})
	for _, c := range []struct{ name, script, want string }{
		{"capabilities", "grep CapEff /proc/1/status", "CapEff:\t00000000a80425fb\n"}, // Docker's fourteen
		{"bounding set", "grep CapBnd /proc/1/status", "CapBnd:\t00000000a80425fb\n"},
		{"seccomp", "grep '^Seccomp:' /proc/1/status", "Seccomp:\t2\n"},
		{"no new privileges", "grep NoNewPrivs /proc/1/status", "NoNewPrivs:\t1\n"},
		{"masked", "wc -c < /proc/interrupts; ls /sys/firmware | wc -l", "0\n0\n"},
		{"proc is read-only", "echo 1 > /proc/sys/vm/swappiness", "sh: can't create /proc/sys/vm/swappiness: Read-only file system\n"},
		{"sys is read-only", "mkdir /sys/x", "mkdir: can't create directory '/sys/x': Read-only file system\n"},
		{"pids of its own", "ls /proc | grep -c '^1$'", "1\n"},
		{"environment", "tr '\\0' '\\n' < /proc/1/environ", "PATH=/bin\nHOSTNAME=habits\nFROM_IMAGE=yes\nHOME=/root\n"},
		{"shared memory", "df -k /dev/shm | tail -1 | awk '{print $2}'", "65536\n"},
		{"devices", "ls /dev | grep -v core", "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"},
		{"no foreign device", "mknod /tmp/d b 254 0 && cat /tmp/d", "cat: can't open '/tmp/d': Operation not permitted\n"},
		{"hostname", "cat /etc/hostname", "habits\n"},
		{"hosts", "grep -c habits /etc/hosts", "1\n"},
		{"resolver", "cat /etc/resolv.conf", "nameserver 10.231.0.1\n"},
		{"low ports", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0\n"},
		{"signals are not ignored", "grep SigIgn /proc/1/status", "SigIgn:\t0000000000000000\n"},
		{"no descriptor of ours", "ls /proc/1/fd", "0\n1\n2\n"},
		{"unshare refused", "unshare -U true", "unshare: unshare(0x10000000): Operation not permitted\n"},
	} {
		if got, _ := r.exec("habits", "sh", "-c", c.script); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestUsers(t *testing.T) {
	r := newRig(t)
	for i, c := range []struct{ user, want string }{
		{"web", "uid=1000(web) gid=1001(web) groups=1001(web),1005(extra) /home/web"},
		{"1000:1005", "uid=1000(web) gid=1005(extra) groups=1005(extra) /home/web"},
		{"4242", "uid=4242 gid=0(root) groups=0(root) /"},
	} {
		out, code := r.output(runtime.Spec{ID: runtime.ID(fmt.Sprint("user", i)), User: c.user}, "echo $(id) $HOME; grep CapEff /proc/self/status; echo to stdout > /dev/stdout")
		want := c.want + "\nCapEff:\t0000000000000000\nto stdout"
		if out != want || code != 0 {
			t.Errorf("user %s: %q (%d), want %q", c.user, out, code, want)
		}
	}
	r.create(runtime.Spec{ID: "nobody", User: "missing", Command: []string{"true"}})
	if _, err := r.rt.Start(t.Context(), "nobody"); err == nil {
		t.Error("a user that does not exist runs")
	}
}

// An image whose account files are links to the host's, or that lays links where volumes and files are to go, reaches
// nothing outside.
func TestHostileImageStaysInside(t *testing.T) {
	r := newRig(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "passwd")
	if err := os.WriteFile(secret, []byte("spy:x:77:77::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	r.load("docker.io/library/evil:1", image.RunConfig{Env: []string{"PATH=/bin"}, WorkingDir: "/wd", Volumes: map[string]struct{}{"/vol": {}}},
		image.Tree{
			{Path: "/bin/busybox", From: busyboxPath, Mode: 0o755},
			{Path: "/bin/sh", Link: "busybox", Mode: fs.ModeSymlink},
			{Path: "/etc/passwd", Link: up + secret[1:], Mode: fs.ModeSymlink},
			{Path: "/wd", Link: up + outside[1:] + "/made", Mode: fs.ModeSymlink},
			{Path: "/vol", Link: up + outside[1:], Mode: fs.ModeSymlink},
			{Path: "/etc/hostname", Link: up + outside[1:] + "/hostname", Mode: fs.ModeSymlink},
		})
	r.create(runtime.Spec{ID: "spy", Image: "docker.io/library/evil:1", User: "spy", Command: []string{"sh", "-c", "id"}})
	if _, err := r.rt.Start(t.Context(), "spy"); err == nil || !strings.Contains(err.Error(), "spy") {
		t.Errorf("a user of the host's file runs: %v", err)
	}
	r.create(runtime.Spec{ID: "evil", Image: "docker.io/library/evil:1", Command: []string{"sh", "-c", "true"}})
	if _, err := r.rt.Start(t.Context(), "evil"); err == nil {
		r.stopped("evil")
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside now has %v (%v), want only what was there", entries, err)
	}
	if vols, _ := filepath.Glob(filepath.Join(r.dir, "containers/evil/volumes/0/*")); len(vols) != 0 {
		t.Errorf("the volume was filled from outside: %v", vols)
	}
}

func TestMounts(t *testing.T) {
	r := newRig(t)
	r.load("docker.io/library/data:1", image.RunConfig{Env: []string{"PATH=/bin"}, Volumes: map[string]struct{}{"/anon": {}}}, busyboxTree(t), image.Tree{
		{Path: "/data/sub/file", Data: []byte("from image\n"), UID: 1000, GID: 1001, Mode: 0o640},
		{Path: "/data/link", Link: "/data/sub/file", Mode: fs.ModeSymlink},
		{Path: "/anon/seed", Data: []byte("seed\n")},
	})
	host := t.TempDir()
	os.Chmod(host, 0o755)
	below := filepath.Join(host, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(below, 0) })
	mounts := []runtime.Mount{
		{Type: runtime.MountBind, Source: host, Target: "/host/ro", ReadOnly: true},
		{Type: runtime.MountBind, Source: filepath.Join(host, "new"), Target: "/host/rw", CreateHostPath: true},
		{Type: runtime.MountVolume, Source: "vol", Target: "/data"},
		{Type: runtime.MountVolume, Source: "bare", Target: "/data2", NoCopy: true},
		{Type: runtime.MountTmpfs, Target: "/scratch", SizeBytes: 1 << 20, Mode: 0o750},
		{Type: runtime.MountVolume, Target: "/nameless"},
	}
	spec := runtime.Spec{ID: "mounts", Image: "docker.io/library/data:1", Mounts: mounts, ReadOnly: true}
	out, code := r.output(spec, "exec 2>&1; touch /host/ro/x; touch /host/ro/below/x; touch /host/rw/y && echo ok; cat /data/link; stat -c '%u %g %a' /data/sub/file; "+
		"echo changed > /data/sub/file; stat -c %a /scratch; df -k /scratch | tail -1 | awk '{print $2}'; touch /x; cat /anon/seed; echo x > /anon/y; ls /data2; echo z > /nameless/z && cat /nameless/z")
	want := "touch: /host/ro/x: Read-only file system\ntouch: /host/ro/below/x: Read-only file system\nok\nfrom image\n1000 1001 640\n750\n1024\ntouch: /x: Read-only file system\nseed\nz"
	if out != want || code != 0 {
		t.Errorf("got %q (%d), want %q", out, code, want)
	}
	if _, err := os.Stat(filepath.Join(host, "new/y")); err != nil {
		t.Error(err)
	}
	// A second container sees the volume as the first left it, and the first keeps it from removal.
	spec.ID = "second"
	if out, _ := r.output(spec, "cat /data/link"); out != "changed" {
		t.Errorf("the volume holds %q, want what the first container wrote", out)
	}
	if err := r.vol.Remove("vol"); err == nil {
		t.Error("a volume in use was removed")
	}
	for _, id := range []runtime.ID{"mounts", "second"} {
		if err := r.rt.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := r.vol.List(); err != nil || len(list) != 2 {
		t.Errorf("the volumes are %+v, %v: the nameless one should have gone with its container", list, err)
	}
	if v, err := r.vol.Get("vol"); err != nil || len(v.Users) != 0 {
		t.Errorf("after the containers the volume is %+v, %v", v, err)
	}
	if _, err := r.rt.Create(t.Context(), runtime.Spec{ID: "nothing", Name: "n", Image: testImage, Mounts: []runtime.Mount{{Type: runtime.MountBind, Source: host + "/absent", Target: "/x"}}}); err == nil {
		t.Error("a missing bind source is accepted")
	}
}

func TestLimitsAndStats(t *testing.T) {
	r := newRig(t)
	r.run(runtime.Spec{
		ID: "small", Command: []string{"sleep", "600"},
		Resources: runtime.Resources{NanoCPUs: 250_000_000, MemoryBytes: 32 << 20, PIDs: 20, MemoryReservationBytes: 16 << 20},
	})
	quota := r.cgroupFile("small", "cpu", "cpu.cfs_quota_us", "cpu.max")
	if quota != "25000" && quota != "25000 100000" {
		t.Errorf("cpu quota %q, want a quarter of 100 ms", quota)
	}
	if got := r.cgroupFile("small", "memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(32<<20) {
		t.Errorf("memory limit %s", got)
	}
	if got := r.cgroupFile("small", "memory", "memory.soft_limit_in_bytes", "memory.low"); got != fmt.Sprint(16<<20) {
		t.Errorf("memory reservation %s", got)
	}
	if got := r.cgroupFile("small", "pids", "pids.max", "pids.max"); got != "20" {
		t.Errorf("pids limit %s", got)
	}
	st, err := r.rt.Stats(t.Context(), "small")
	if err != nil || st.MemoryLimit != 32<<20 || st.PIDs != 1 || st.CPU <= 0 || st.MemoryBytes <= 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	r.run(runtime.Spec{ID: "least", Command: []string{"true"}, Resources: runtime.Resources{MemoryBytes: runtime.MinMemoryBytes}})
	if in := r.stopped("least"); in.ExitCode != 0 {
		t.Errorf("with the least memory: %+v", in)
	}
}

func TestOutOfMemoryIsTold(t *testing.T) {
	r := newRig(t)
	eat := "tail /dev/zero"
	r.run(runtime.Spec{ID: "hungry", Command: []string{"sh", "-c", "exec " + eat}, Resources: runtime.Resources{MemoryBytes: 16 << 20}})
	if in := r.stopped("hungry"); !in.OOMKilled || in.ExitCode != 137 {
		t.Errorf("told as %+v", in)
	}
	r.close()
	r.open()
	if in := r.inspect("hungry"); !in.OOMKilled {
		t.Errorf("after adoption told as %+v", in)
	}
	events := r.rt.Events(t.Context())
	parent := r.cgroup + "-parent"
	t.Cleanup(func() {
		for _, d := range append(mustGlob("/sys/fs/cgroup/*/"+parent), "/sys/fs/cgroup/"+parent) {
			os.Remove(d)
		}
	})
	for id, tuning := range map[runtime.ID]*runtime.Tuning{"child": nil, "elsewhere": {CgroupParent: "/" + parent}} {
		r.run(runtime.Spec{
			ID: id, Command: []string{"sh", "-c", eat + "; echo lives on; sleep 600"}, Resources: runtime.Resources{MemoryBytes: 16 << 20}, Tuning: tuning,
		})
		for timeout := time.After(patience / 4); ; {
			select {
			case e := <-events:
				if e.Kind != runtime.EventOOM || e.ID != id {
					continue
				}
			case <-timeout:
				t.Errorf("no event tells of the killed child of %s", id)
			}
			break
		}
	}
	if err := r.rt.Stop(t.Context(), "child", 0); err != nil {
		t.Fatal(err)
	}
	if in := r.inspect("child"); in.OOMKilled {
		t.Errorf("a container that was stopped is told out of memory: %+v", in)
	}
	if err := r.rt.Remove(t.Context(), "elsewhere"); err != nil {
		t.Error(err)
	}
}

func TestTerminal(t *testing.T) {
	r := newRig(t)
	r.run(runtime.Spec{ID: "tty", TTY: true, Command: []string{"sh", "-c", "tty; echo $TERM; echo to stderr >&2; exit 6"}})
	if in := r.stopped("tty"); in.ExitCode != 6 {
		t.Errorf("%+v", in)
	}
	got := fmt.Sprintf("%q", r.lines("tty", runtime.LogQuery{}))
	if got != `["/dev/pts/0" "xterm" "to stderr"]` && got != `["/dev/console" "xterm" "to stderr"]` {
		t.Errorf("a terminal's log is %s", got)
	}
}

func TestExecWithTerminal(t *testing.T) {
	r := newRig(t)
	r.shell("host", "sleep 600")
	var out bytes.Buffer
	size := make(chan runtime.Size, 1)
	size <- runtime.Size{Rows: 33, Cols: 77}
	code, err := r.rt.Exec(t.Context(), "host", runtime.Exec{
		Args: []string{"sh", "-c", "while [ \"$(stty size)\" != '33 77' ]; do sleep 0.02; done; read line; echo got $line; stty size; tty; exit 4"},
		TTY:  true, Stdin: strings.NewReader("hello\n"), Stdout: &out, Resize: size,
	})
	if err != nil || code != 4 {
		t.Errorf("%d, %v", code, err)
	}
	for _, want := range []string{"got hello", "33 77", "/dev/pts/"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output %q lacks %q", out.String(), want)
		}
	}
}

// A process that hands its output to another that stays must not hold Exec.
func TestExecDoesNotWaitForLeftBehind(t *testing.T) {
	r := newRig(t)
	r.shell("host", "sleep 600")
	begin := time.Now()
	out, code := r.exec("host", "sh", "-c", "sleep 300 & echo started")
	if out != "started\n" || code != 0 || time.Since(begin) > patience/2 {
		t.Errorf("%q, %d after %v", out, code, time.Since(begin))
	}
}

func TestCapabilitiesOfSpec(t *testing.T) {
	r := newRig(t)
	for i, c := range []struct {
		add, drop []string
		want      string
	}{
		{nil, []string{"ALL"}, "0000000000000000"},
		{[]string{"CAP_NET_BIND_SERVICE"}, []string{"all"}, "0000000000000400"},
		{[]string{"NET_ADMIN"}, nil, "00000000a80435fb"},
		{nil, []string{"CHOWN"}, "00000000a80425fa"},
	} {
		out, _ := r.output(runtime.Spec{ID: runtime.ID(fmt.Sprint("cap", i)), CapAdd: c.add, CapDrop: c.drop}, "grep CapEff /proc/self/status")
		if out != "CapEff:\t"+c.want {
			t.Errorf("add %v, drop %v: %q, want %s", c.add, c.drop, out, c.want)
		}
	}
}

// A stream that does not block makes programs fail that never expected it; and stdin, when asked for, stays open.
func TestStreamsBlockAndStdinStaysOpen(t *testing.T) {
	r := newRig(t)
	r.run(runtime.Spec{ID: "in", Stdin: true, Command: []string{"sh", "-c", "cat /proc/self/fdinfo/0 /proc/self/fdinfo/1 /proc/self/fdinfo/2 | grep flags; read line; echo ended"}})
	r.eventually("told", func() bool { return len(r.lines("in", runtime.LogQuery{})) >= 3 })
	for _, l := range r.lines("in", runtime.LogQuery{}) {
		var flags int
		if _, err := fmt.Sscanf(l, "flags: %o", &flags); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("%q: not a stream that blocks", l)
		}
	}
	out, _ := r.exec("in", "sh", "-c", "grep flags /proc/self/fdinfo/1; grep State /proc/1/status")
	var flags int
	if _, err := fmt.Sscanf(out, "flags: %o", &flags); err != nil || flags&unix.O_NONBLOCK != 0 || !strings.Contains(out, "S (sleeping)") {
		t.Errorf("exec tells %q", out)
	}
}
