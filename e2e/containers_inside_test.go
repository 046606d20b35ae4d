package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/e2e/machines"
)

// TestContainers checks what is promised to containers, on one cluster of two machines.
func TestContainers(t *testing.T) {
	n := cluster(t, 2)
	m := n.Machines()
	loadBusybox(t, m[0])
	shoal(t, m[0], "run", "-f", "testdata/promises.compose.yaml", "--name", "in", "--timeout", patience.String())
	for _, c := range []struct {
		name string
		test func(*testing.T, *machines.Net)
	}{
		{"Inside", containerInside},
		{"Namespaces", containerNamespaces},
		{"Limits", containerLimits},
		{"OutOfMemory", containerOOM},
		{"StopSignal", containerStopSignal},
		{"GraceEnds", containerGrace},
		{"ExitCodes", containerExitCodes},
		{"GivesUpAndGoesElsewhere", containerGivesUp},
		{"LogsKeepEveryByte", containerLogBytes},
		{"LogsRotate", containerLogRotation},
		{"Mounts", containerMounts},
		{"EveryKey", containerKeys},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, n)
		})
	}
}

// containerInside looks from within, as the container's own programs do.
func containerInside(t *testing.T, n *machines.Net) {
	m := n.Machines()[1]
	for _, c := range []struct{ service, what, script, want string }{
		// Docker's defaults (moby, daemon/pkg/oci/defaults.go).
		{"plain", "capabilities", "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/1/status", "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n"},
		{"plain", "an exec's capabilities", "grep CapEff /proc/self/status", "CapEff:\t00000000a80425fb\n"},
		{"plain", "seccomp", "grep -h '^Seccomp:' /proc/1/status /proc/self/status", "Seccomp:\t2\nSeccomp:\t2\n"},
		{"plain", "no new privileges", "grep -h NoNewPrivs /proc/1/status /proc/self/status", "NoNewPrivs:\t1\nNoNewPrivs:\t1\n"},
		{"plain", "masked files", "for f in /proc/kcore /proc/keys /proc/timer_list; do [ -e $f ] && head -c 1 $f | wc -c; done | sort -u", "0\n"},
		{"plain", "masked directories", "ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : | grep . | wc -l", "0\n"},
		{"plain", "/proc/sys", "echo x > /proc/sys/kernel/domainname", "sh: can't create /proc/sys/kernel/domainname: Read-only file system\n"},
		{"plain", "/sys", "mkdir /sys/x", "mkdir: can't create directory '/sys/x': Read-only file system\n"},
		{"plain", "cgroups are read-only", "d=$(ls -d /sys/fs/cgroup/* | head -1); mkdir $d/x 2>&1 | grep -c -e Read-only -e Permission", "1\n"},
		{"plain", "mounting", "mount -t tmpfs none /tmp", "mount: permission denied (are you root?)\n"},
		{"plain", "host devices", "mknod /tmp/d b 7 0 && cat /tmp/d", "cat: can't open '/tmp/d': Operation not permitted\n"},
		{"plain", "own processes only", "cat /proc/1/comm; [ $(ls -d /proc/[0-9]* | wc -l) -lt 10 ] && echo few", "sleep\nfew\n"},
		{"plain", "host name", "hostname; cat /etc/hostname; echo $HOSTNAME", "plain-1\nplain-1\nplain-1\n"},
		{"plain", "hosts", "grep -c localhost /etc/hosts; grep plain-1 /etc/hosts | cut -f1 | cut -d. -f1", "2\n10\n"},
		{"plain", "resolver", "grep -c '^nameserver 10\\.' /etc/resolv.conf; grep -c search /etc/resolv.conf", "1\n0\n"},
		{"plain", "interfaces", "ls /sys/class/net", "eth0\nlo\n"},
		{"plain", "its task", "echo $SHOAL_JOB $SHOAL_SERVICE $SHOAL_SLOT; [ ${#SHOAL_TASK} = 13 ] && echo ok", "in plain 1\nok\n"},
		{"plain", "writing", "echo x > /made && cat /made", "x\n"},
		{"closed", "read-only root", "echo x > /made", "sh: can't create /made: Read-only file system\n"},
		{"closed", "tmpfs", "echo x > /scratch/f && cat /scratch/f; stat -c %a /scratch; df -k /scratch | tail -1 | awk '{print $2}'", "x\n1777\n1024\n"},
		{"closed", "the tmpfs' size", "dd if=/dev/zero of=/scratch/big bs=1M count=2 2>&1 | grep -c 'No space'", "1\n"},
		{"nobody", "user", "id -u; id -g; grep CapEff /proc/1/status; stat -c %u /proc/1", "65534\n65534\nCapEff:\t0000000000000000\n65534\n"},
		{"nobody", "root's files", "echo x > /made", "sh: can't create /made: Permission denied\n"},
		{"caps", "added and dropped", "grep CapBnd /proc/1/status; ip link set lo down && echo may", "CapBnd:\t00000000a00435fa\nmay\n"},
		{"caps", "chown", "touch /tmp/f; chown 1 /tmp/f", "chown: /tmp/f: Operation not permitted\n"},
		{"capless", "none", "grep CapEff /proc/1/status", "CapEff:\t0000000000000000\n"},
		{"reaper", "init reaps", "(sleep 0.1 & ) ; (sleep 0.1 & ); sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; [ $(cat /proc/1/comm) != sleep ] && echo init", "0\ninit\n"},
		{"named", "settings", "hostname; echo $GREETING; pwd; grep -c box.example.com /etc/hosts", "box.example.com\nhello $USER\n/made/up\n1\n"},
	} {
		r := attempt(m, nil, "exec", "in/"+c.service+".1", "sh", "-c", c.script)
		if got := r.Stdout + r.Stderr; got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.service, c.what, got, c.want)
		}
	}
}

func containerNamespaces(t *testing.T, n *machines.Net) {
	m := n.Machines()
	seen := map[string]string{}
	note := func(who, links string) {
		for _, l := range strings.Fields(links) {
			if other, ok := seen[l]; ok {
				t.Errorf("%s and %s share %s", who, other, l)
			}
			seen[l] = who
		}
	}
	const script = "for n in pid ipc uts mnt net; do readlink /proc/1/ns/$n; done"
	for _, m := range m {
		out, err := m.Command("sh", "-c", script).Output()
		must(t, err)
		note(m.Name, string(out))
	}
	for _, kind := range []string{"pid", "ipc", "uts", "mnt", "net"} {
		l, err := os.Readlink("/proc/self/ns/" + kind)
		must(t, err)
		note("the host", l)
	}
	for _, service := range []string{"plain", "closed", "nobody"} {
		links := shoal(t, m[0], "exec", "in/"+service+".1", "sh", "-c", script)
		if strings.Count(links, "\n") != 5 {
			t.Errorf("%s has the namespaces %q", service, links)
		}
		note(service, links)
	}
}

// cgroupFile finds a file of a task's cgroup, in whichever hierarchy.
func cgroupFile(t *testing.T, m *machines.Machine, id string, names ...string) string {
	t.Helper()
	for _, name := range names {
		for _, pattern := range []string{"/sys/fs/cgroup/*/%s/%s/%s", "/sys/fs/cgroup/%s/%s/%s"} {
			if found, _ := filepath.Glob(fmt.Sprintf(pattern, m.Cgroup(), id, name)); len(found) > 0 {
				b, err := os.ReadFile(found[0])
				must(t, err)
				return strings.TrimSpace(string(b))
			}
		}
	}
	t.Fatalf("none of %v in the cgroup of %s on %s", names, id, m.Name)
	return ""
}

func containerLimits(t *testing.T, n *machines.Net) {
	k := slots(t, n.Machines()[0], "in")["limits.1"]
	m := machineOf(t, n, k)
	if got := cgroupFile(t, m, string(k.ID), "cpu.cfs_quota_us", "cpu.max"); got != "25000" && got != "25000 100000" {
		t.Errorf("quota for 0.25 CPUs: %q", got)
	}
	if got := cgroupFile(t, m, string(k.ID), "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(48<<20) {
		t.Errorf("memory limit of 48M: %q", got)
	}
	if got := cgroupFile(t, m, string(k.ID), "pids.max"); got != "20" {
		t.Errorf("limit of processes: %q", got)
	}
	r := attempt(m, nil, "exec", "in/limits.1", "sh", "-c", "for i in $(seq 40); do sleep 2 & done; wait")
	contains(t, r.Stderr, "can't fork")
	contains(t, shoal(t, m, "ps", "in"), "in/limits.1") // and it lives on
	if r := attempt(m, nil, "exec", "in/plain.1", "sh", "-c", "for i in $(seq 40); do sleep 0.1 & done; wait; echo fine"); r.Stdout != "fine\n" {
		t.Errorf("the neighbour without a limit: %v", r)
	}
}
