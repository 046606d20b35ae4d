package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// TestShop runs nginx, redis and their clients as an admin would, on three machines.
func TestShop(t *testing.T) {
	n := cluster(t, 3)
	m := n.Machines()
	loadBusybox(t, m[0])
	loadArchive(t, m[1], nginxArchive)
	loadArchive(t, m[2], redisArchive)
	out := shoal(t, m[0], "run", "-f", "testdata/shop.compose.yaml", "--name", "shop", "--timeout", patience.String())
	contains(t, out, "submitted", "healthy")
	t.Log(strings.TrimSpace(out))
	t.Run("each machine has a client", func(t *testing.T) {
		on := map[string]bool{}
		for name, k := range slots(t, m[1], "shop") {
			if strings.HasPrefix(name, "client.") {
				on[k.NodeName] = true
			}
		}
		if len(on) != 3 {
			t.Errorf("the clients run on %v only", on)
		}
	})
	t.Run("services reach each other by name on all machines", func(t *testing.T) { shopNames(t, n) })
	t.Run("the published port", func(t *testing.T) { shopPort(t, n) })
	t.Run("the volume keeps its data", func(t *testing.T) { shopVolume(t, n) })
	t.Run("a killed program is started again", func(t *testing.T) { shopKill(t, n) })
	t.Run("a stuck program becomes unhealthy and is started again", func(t *testing.T) { shopStuck(t, n) })
	shoal(t, m[2], "rm", "shop")
	for _, m := range m {
		for pid, cmd := range m.Processes() {
			if strings.Contains(cmd, "nginx") || strings.Contains(cmd, "redis-server") {
				t.Errorf("process %d still runs on %s: %s", pid, m.Name, cmd)
			}
		}
	}
}

func shopNames(t *testing.T, n *machines.Net) {
	for i, m := range n.Machines() {
		client := fmt.Sprintf("shop/client.%d", i+1)
		if got := shoal(t, m, "exec", client, "wget", "-q", "-O", "-", "http://front/"); got != "welcome to the shop\n" {
			t.Errorf("%s got %q from front", client, got)
		}
		ping := `printf 'PING\r\nQUIT\r\n' | nc -w 5 store 6379`
		if got := shoal(t, m, "exec", client, "sh", "-c", ping); !strings.HasPrefix(got, "+PONG") {
			t.Errorf("%s got %q from store", client, got)
		}
		if r := attempt(m, nil, "exec", client, "nslookup", "nothing"); r.Code == 0 {
			t.Errorf("%s resolved a name that is no service's: %v", client, r)
		}
	}
	// Names of single tasks, and of the job, and one round of all three clients.
	names := shoal(t, n.Machines()[0], "exec", "shop/client.1", "sh", "-c", "nslookup -type=a client; nslookup -type=a client.2.shop")
	addrs := regexp.MustCompile(`Address: +10\.[0-9.]+`).FindAllString(names, -1)
	if len(addrs) < 4 {
		t.Errorf("the names of three clients and of one gave %v:\n%s", addrs, names)
	}
}

func shopPort(t *testing.T, n *machines.Net) {
	front := slots(t, n.Machines()[0], "shop")["front.1"]
	home := machineOf(t, n, front)
	ask := func(from *machines.Machine, host string) error {
		out, err := from.Command("timeout", "5", "/bin/busybox", "wget", "-q", "-O", "-", "http://"+host+":8080/?from="+from.Name+"-"+host).CombinedOutput()
		if err != nil || string(out) != "welcome to the shop\n" {
			return fmt.Errorf("%s asked %s: %q %w", from.Name, host, out, err)
		}
		return nil
	}
	for _, m := range n.Machines() {
		must(t, ask(m, home.Addr.String()))
	}
	must(t, ask(home, "127.0.0.1"))
	for i := range n.Machines() { // containers too, on the same machine and on others; and they reach the machines
		client := fmt.Sprintf("shop/client.%d", i+1)
		if got := shoal(t, home, "exec", client, "wget", "-q", "-O", "-", "http://"+home.Addr.String()+":8080/"); got != "welcome to the shop\n" {
			t.Errorf("%s got %q from the published port", client, got)
		}
		shoal(t, home, "exec", client, "ping", "-c", "1", "-W", "5", n.Machines()[0].Addr.String())
	}
	eventually(t, "nginx to log its clients", func() error {
		log := shoal(t, n.Machines()[0], "logs", "shop/front")
		for _, m := range n.Machines() {
			line := regexp.MustCompile(`(?m)^.*from=` + m.Name + `-192.*$`).FindString(log)
			if line == "" || (m != home && !strings.Contains(line, m.Addr.String()+" - -")) {
				return fmt.Errorf("the request of %s (%s) was logged as %q", m.Name, m.Addr, line)
			}
		}
		return nil
	})
	for _, m := range n.Machines() {
		if m != home && ask(home, m.Addr.String()) == nil {
			t.Errorf("%s answers on the port of a task that it does not run", m.Name)
		}
	}
}

func shopVolume(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	before := slots(t, m, "shop")["store.1"]
	redis := func(args ...string) string {
		return strings.TrimSpace(shoal(t, m, append([]string{"exec", "shop/store.1", "redis-cli"}, args...)...))
	}
	if got := redis("set", "kept", "yes"); got != "OK" {
		t.Fatalf("redis says %q", got)
	}
	kill(t, machineOf(t, n, before), before, syscall.SIGKILL)
	eventually(t, "redis to be back in place", func() error {
		k, err := newest(m, "shop", "store.1")
		if err != nil || !k.Ready || k.ID != before.ID || k.Status.Restarts < 1 {
			return fmt.Errorf("%+v: %w", k, err)
		}
		return nil
	})
	if got := redis("get", "kept"); got != "yes" {
		t.Errorf("after a restart redis has %q", got)
	}
	shoal(t, m, "scale", "shop/store=0")
	eventually(t, "redis to be gone", func() error {
		if left := processes(machineOf(t, n, before), before); len(left) > 0 {
			return fmt.Errorf("%v still run", left)
		}
		return nil
	})
	shoal(t, m, "scale", "shop/store=1")
	after := slots(t, m, "shop")["store.1"]
	if after.NodeName != before.NodeName || after.ID == before.ID {
		t.Errorf("redis went from %s (%s) to %s (%s), but its volume is on the first", before.NodeName, before.ID, after.NodeName, after.ID)
	}
	if got := redis("get", "kept"); got != "yes" {
		t.Errorf("after going away and coming back redis has %q", got)
	}
}

// kill sends a signal to the first process of a task's container.
func kill(t *testing.T, m *machines.Machine, k api.Task, s syscall.Signal) {
	t.Helper()
	for _, pid := range processes(m, k) {
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil && firstProcess.Match(status) {
			must(t, unix.Kill(pid, s))
			return
		}
	}
	t.Fatalf("no first process of %s found on %s", k.Name, m.Name)
}

var firstProcess = regexp.MustCompile(`NSpid:.*\t1\n`)

// processes lists a task's processes in our namespace, by the task's cgroup: programs may overwrite their environment.
func processes(m *machines.Machine, k api.Task) []int {
	var pids []int
	for _, root := range []string{"/sys/fs/cgroup/pids/", "/sys/fs/cgroup/"} {
		_ = filepath.WalkDir(root+m.Cgroup(), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() != "cgroup.procs" || !strings.Contains(path, string(k.ID)) {
				return nil
			}
			b, err := os.ReadFile(path)
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return err
		})
	}
	return pids
}

func shopKill(t *testing.T, n *machines.Net) {
	m := n.Machines()[1]
	before := slots(t, m, "shop")["front.1"]
	kill(t, machineOf(t, n, before), before, syscall.SIGKILL)
	eventually(t, "nginx to be back in place", func() error {
		k, err := newest(m, "shop", "front.1")
		if err != nil || !k.Ready || k.ID != before.ID || k.Status.Restarts != before.Status.Restarts+1 {
			return fmt.Errorf("%+v: %w", k.Status, err)
		}
		return nil
	})
	if k := slots(t, m, "shop")["front.1"]; k.Status.ExitCode == nil || *k.Status.ExitCode != 137 {
		t.Errorf("the exit code of a killed program is not 137: %+v", k.Status)
	}
	eventually(t, "the clients to reach it again", func() error {
		if r := attempt(m, nil, "exec", "shop/client.1", "timeout", "5", "wget", "-q", "-O", "-", "http://front/"); r.Code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

func shopStuck(t *testing.T, n *machines.Net) {
	m := n.Machines()[2]
	before := slots(t, m, "shop")["front.1"]
	for _, pid := range processes(machineOf(t, n, before), before) {
		must(t, unix.Kill(pid, unix.SIGSTOP))
	}
	sick := false
	eventually(t, "nginx to be found stuck and started again", func() error {
		k, err := newest(m, "shop", "front.1")
		if err != nil {
			return err
		}
		sick = sick || k.Status.Health == job.Unhealthy
		if !k.Ready || k.Status.Restarts <= before.Status.Restarts || k.ID != before.ID {
			return fmt.Errorf("%s: %+v", k.ID, k.Status)
		}
		return nil
	})
	if !sick {
		t.Error("it never was unhealthy")
	}
}
