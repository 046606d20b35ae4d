package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/consensus/job"
	"shoal/e2e/machines"
)

// containerKeys runs a file with every key that few services need, and looks from inside whether each is honoured.
func containerKeys(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	gone(t, m, "keys")
	t.Cleanup(func() {
		left, _ := filepath.Glob("/sys/fs/cgroup/*/shoal-e2e-low") // the parent is the admin's and stays
		for _, d := range left {
			os.Remove(d)
		}
	})
	shoal(t, m, "run", "-f", "testdata/keys.compose.yaml", "--name", "keys", "--timeout", patience.String())
	for _, c := range []struct{ service, what, script, want string }{
		{"apart", "no-new-privileges, seccomp", "grep -h -e NoNewPrivs -e ^Seccomp: /proc/1/status; mkdir /tmp/x", "NoNewPrivs:\t0\nSeccomp:\t2\nmkdir: can't create directory '/tmp/x': Operation not supported\n"},
		{"apart", "devices", "stat -c '%t:%T' /dev/nought; head -c 2 /dev/nought | wc -c", "1:5\n2\n"},
		{"apart", "group_add", "grep Groups /proc/1/status | tr -s '\t ' ' '", "Groups: 0 44 \n"},
		{"apart", "sysctls", "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmax", "1234\n1048576\n"},
		{"apart", "ulimits", "awk '/core/{print $5,$6} /open files/{print $4,$5}' /proc/1/limits", "0 0\n100 200\n"},
		{"apart", "umask", "grep Umask /proc/1/status; umask", "Umask:\t0027\n0027\n"},
		{"apart", "names", "hostname; cat /proc/sys/kernel/domainname; grep -o 'apart.corp.example apart' /etc/hosts; grep -c -e '^10.0.0.7' -e 'node$' /etc/hosts", "apart\ncorp.example\napart.corp.example apart\n2\n"},
		{"apart", "mac_address", "cat /sys/class/net/eth0/address", "02:42:ac:11:65:43\n"},
		{"apart", "resolver", "grep -c '^nameserver 10\\.' /etc/resolv.conf; grep -e search -e options /etc/resolv.conf", "1\nsearch corp.example\noptions ndots:0 ndots:2\n"},
		{"apart", "shm_size", "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2", "2048\n"},
		{"apart", "tmpfs", "stat -c '%u:%g %a' /scratch; cp /bin/busybox /scratch/echo && /scratch/echo ran", "5:6 750\nran\n"},
		{"apart", "first use of a volume", "grep -c nobody /etc/passwd", "1\n"},
		{"apart", "a bind mount without what is below it", "test -c /hostdev/null && ls /hostdev/pts | wc -l", "0\n"},
		{"apart", "post_start", "cat /hooked", "hi\n0\n"},
		{"tuned", "oom_score_adj", "cat /proc/1/oom_score_adj", "500\n"},
		{"tuned", "cpuset", "grep Cpus_allowed_list /proc/1/status", "Cpus_allowed_list:\t0\n"},
		{"mighty", "privileged", "grep ^Seccomp: /proc/1/status; test -e /dev/loop0 && mount -t tmpfs none /tmp && echo may", "Seccomp:\t0\nmay\n"},
		{"own", "users of its own", "id -u; tr -s ' ' < /proc/self/uid_map | cut -d' ' -f2,4; stat -c %u /bin2 /bin/busybox", "0\n0 65536\n0\n0\n"},
		{"lone", "no network, no shared memory", "ls /sys/class/net; test -e /dev/shm/. || echo none", "lo\nnone\n"},
	} {
		r := attempt(m, nil, "exec", "keys/"+c.service+".1", "sh", "-c", c.script)
		if got := r.Stdout + r.Stderr; got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.service, c.what, got, c.want)
		}
	}
	keysOfTheCgroup(t, n)
	keysOfTheHost(t, n)
	keysOfTheJoined(t, n)
	refuses(t, m, 5, []string{"logging driver is none"}, "", "logs", "keys/tuned.1")

	// What pre_stop wrote is in the volume.
	shoal(t, m, "rm", "keys")
	eventually(t, "pre_stop has written to the volume", func() error {
		for _, k := range n.Machines() {
			if b, _ := os.ReadFile(filepath.Join(k.DataDir(), "volumes", "keys_filled", "_data", "word")); string(b) == "bye\n" {
				return nil
			}
		}
		return fmt.Errorf("no file is there")
	})
}

func keysOfTheCgroup(t *testing.T, n *machines.Net) {
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		t.Log("no cgroup v1 here: its files are not looked at")
		return
	}
	k := slots(t, n.Machines()[0], "keys")["tuned.1"]
	for file, want := range map[string]string{
		"cpu/%s/cpu.shares": "512", "cpu/%s/cpu.cfs_period_us": "50000", "cpu/%s/cpu.cfs_quota_us": "25000", "cpuset/%s/cpuset.cpus": "0",
		"memory/%s/memory.limit_in_bytes": "67108864", "memory/%s/memory.soft_limit_in_bytes": "33554432", "memory/%s/memory.swappiness": "7",
		"blkio/%s/blkio.throttle.read_bps_device": "7:0 1048576", "blkio/%s/blkio.throttle.write_iops_device": "7:0 99",
	} {
		file = filepath.Join("/sys/fs/cgroup", fmt.Sprintf(file, "shoal-e2e-low/"+string(k.ID)))
		if b, err := os.ReadFile(file); strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %q (%v), want %s", file, b, err, want)
		}
	}
}

func keysOfTheHost(t *testing.T, n *machines.Net) {
	k := slots(t, n.Machines()[0], "keys")["host.1"]
	for _, m := range n.Machines() {
		if m.Name != k.NodeName {
			continue
		}
		for _, ns := range []string{"net", "pid", "ipc", "uts"} {
			want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", m.AgentPID(), ns))
			must(t, err)
			if got := strings.TrimSpace(shoal(t, m, "exec", "keys/host.1", "readlink", "/proc/self/ns/"+ns)); got != want {
				t.Errorf("the %s namespace is %s, want the machine's %s", ns, got, want)
			}
		}
	}
}

func keysOfTheJoined(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	script := "cat /dev/shm/word; ps | grep -c '[h]ttpd -p 8080'; wget -qO- http://127.0.0.1:8080/healthz"
	for _, slot := range []string{"1", "2"} {
		if got := shoal(t, m, "exec", "keys/side."+slot, "sh", "-c", script); got != "shared\n1\nwell\n" {
			t.Errorf("side.%s sees %q", slot, got)
		}
		all := slots(t, m, "keys")
		if main, side := all["main."+slot], all["side."+slot]; main.Node != side.Node || main.Status.Address != side.Status.Address {
			t.Errorf("main.%s is on %s at %v, side.%s on %s at %v", slot, main.NodeName, main.Status.Address, slot, side.NodeName, side.Status.Address)
		}
	}
	// The one that is joined ends: both run again, and together.
	before := slots(t, m, "keys")["side.1"]
	attempt(m, nil, "exec", "keys/main.1", "sh", "-c", "kill -9 $(pidof sleep) $(pidof httpd)")
	eventually(t, "side.1 shares again", func() error {
		r := attempt(m, nil, "exec", "keys/side.1", "sh", "-c", script)
		if k := slots(t, m, "keys")["side.1"]; k.ID != before.ID || k.Status.State != job.Running {
			return fmt.Errorf("side.1 is %s %s, was %s", k.ID, k.Status.State, before.ID)
		}
		if r.Stdout != "shared\n1\nwell\n" {
			return fmt.Errorf("it sees %v", r)
		}
		return nil
	})
}
