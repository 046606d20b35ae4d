package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/e2e/machines"
	"shoal/runtime/image"
)

var netcatArchive = sync.OnceValues(func() ([]byte, error) {
	return machines.DebianImage("e2e/netcat:1", image.RunConfig{}, nil, "netcat-openbsd")
})

// jobPortsNeverHang asks a published port all the time while its tasks are updated and killed: a client is answered, or
// refused at once, and never led to a container that is not there any more.
func jobPortsNeverHang(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "door")
	file := func(version int) string {
		return web(`command: [sh, -c, "mkdir /w; echo well >/w/index.html; exec httpd -f -p 80 -h /w"]`,
			fmt.Sprintf("environment: {VERSION: \"%d\"}", version), `ports: ["9410:80"]`, "x-drain: 0s",
			fmt.Sprintf("deploy: {replicas: %d, update_config: {monitor: 100ms}}", len(m)))
	}
	runCompose(t, m[0], "door", file(1))
	ctx, cancel := context.WithCancel(t.Context())
	var askers sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	for _, m := range m {
		askers.Go(func() {
			for ctx.Err() == nil {
				said := knock(ctx, m, m.Addr.String()+":9410")
				mu.Lock()
				answers[said]++
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	for version := range 3 {
		runCompose(t, m[0], "door", file(2+version))
		for _, m := range m {
			for _, pids := range m.Tasks("door") {
				_ = unix.Kill(pids[0], unix.SIGKILL) // it may be gone
			}
		}
		settled(t, n, m[0], "door", len(m))
	}
	cancel()
	askers.Wait()
	t.Logf("%v", answers)
	if answers["well"] == 0 {
		t.Error("nobody was answered")
	}
	for said, times := range answers {
		switch said {
		case "well", "refused", "ended":
		default:
			t.Errorf("%d times: %s", times, said)
		}
	}
	gone(t, m[0], "door")
}

// knock asks a port, and tells how that went. It is patient: a machine may be busy, a container that is gone never answers.
func knock(ctx context.Context, m *machines.Machine, addr string) string {
	began := time.Now()
	one, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	conn, err := m.DialContext(one, "tcp", addr)
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	}
	var said []byte
	if err == nil {
		said, err = io.ReadAll(conn)
	}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), err == nil && len(said) == 0:
		return "ended"
	case err == nil && strings.HasSuffix(string(said), "well\n"):
		return "well"
	case err == nil && strings.HasPrefix(string(said), "HTTP/1."): // it was killed before it had sent all
		return "ended"
	case err == nil:
		return fmt.Sprintf("answered %q", said)
	}
	return fmt.Sprintf("%v, at %v after %v", err, time.Now().Format(time.StampMilli), time.Since(began).Round(10*time.Millisecond))
}

// jobPorts publishes in all ways that Compose knows.
func jobPorts(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "open")
	loadArchive(t, m[1], netcatArchive)
	runCompose(t, m[0], "open", strings.Replace(web(
		`command: [sh, -c, "mkdir /w; hostname > /w/name; httpd -p 80 -h /w; exec /bin/nc.openbsd -u -l -k 53"]`,
		`ports: ["9400:80", "127.0.0.1:9401:80", "80", "9402:53/udp"]`), busyboxImage, "e2e/netcat:1", 1))
	k := slots(t, m[1], "open")["web.1"]
	home := machineOf(t, n, k)
	away := m[0]
	if away == home {
		away = m[1]
	}
	chosen := 0
	for _, p := range k.Status.Ports {
		if p.Target == 80 && p.Published != 9400 && p.Published != 9401 {
			chosen = int(p.Published)
		}
	}
	if chosen == 0 {
		t.Fatalf("no port was chosen: %+v", k.Status.Ports)
	}
	contains(t, shoal(t, m[0], "ps", "open"), "9400->80/tcp", "127.0.0.1:9401->80/tcp", fmt.Sprintf("%d->80/tcp", chosen), "9402->53/udp")
	get := func(from *machines.Machine, host string, port int) string {
		out, _ := from.Command("timeout", "5", "/bin/busybox", "wget", "-q", "-O", "-", fmt.Sprintf("http://%s:%d/name", host, port)).Output()
		return strings.TrimSpace(string(out))
	}
	for _, c := range []struct {
		from *machines.Machine
		host netip.Addr
		port int
		want string
	}{
		{away, home.Addr, 9400, "web-1"}, {home, home.Addr, 9400, "web-1"}, {home, netip.MustParseAddr("127.0.0.1"), 9400, "web-1"},
		{away, home.Addr, chosen, "web-1"},
		{home, netip.MustParseAddr("127.0.0.1"), 9401, "web-1"}, {away, home.Addr, 9401, ""}, {home, home.Addr, 9401, ""},
	} {
		if got := get(c.from, c.host.String(), c.port); got != c.want {
			t.Errorf("%s asked %s:%d and got %q, want %q", c.from.Name, c.host, c.port, got, c.want)
		}
	}
	conn, err := away.DialContext(t.Context(), "udp", home.Addr.String()+":9402")
	must(t, err)
	defer conn.Close()
	eventually(t, "a packet to arrive", func() error {
		if _, err := conn.Write([]byte("by UDP\n")); err != nil {
			return err
		}
		if got := shoal(t, away, "logs", "open"); !strings.Contains(got, "by UDP\n") {
			return fmt.Errorf("the log has %q", got)
		}
		return nil
	})
	shoal(t, m[0], "rm", "open")
	if got := get(away, home.Addr.String(), 9400); got != "" {
		t.Errorf("a removed job still answers: %q", got)
	}
}

// jobExecEnds kills the client of an exec; its command must not go on alone.
func jobExecEnds(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "lonely")
	runCompose(t, m[0], "lonely", web())
	k := slots(t, m[0], "lonely")["web.1"]
	home := machineOf(t, n, k)
	for _, from := range m {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		cmd := exec.CommandContext(ctx, binary, "--host", from.Socket(), "exec", "lonely/web.1", "sleep", "31337")
		must(t, cmd.Start())
		sleeps := func() int {
			count := 0
			for _, pid := range processes(home, k) {
				if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(b), "31337") {
					count++
				}
			}
			return count
		}
		eventually(t, "the command", func() error {
			if sleeps() != 1 {
				return fmt.Errorf("%d run", sleeps())
			}
			return nil
		})
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		cancel()
		eventually(t, "the end of the command that "+from.Name+" began", func() error {
			if sleeps() != 0 {
				return fmt.Errorf("%d run", sleeps())
			}
			return nil
		})
	}
}

// jobVolumesMissing asks for an external volume that is not there.
func jobVolumesMissing(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "external")
	refuses(t, m[0], 8, []string{"nowhere-to-be-found"}, web("volumes: ['data:/data']", "restart: 'no'")+"volumes: { data: { external: true, name: nowhere-to-be-found } }\n",
		"run", "-f", "-", "--name", "external", "--timeout", "5s")
}

// jobCrashes runs a program that ends again and again: that is not healthy.
func jobCrashes(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "crashing")
	refuses(t, m[0], 8, []string{"exit code 3", "my last words"}, web(`command: [sh, -c, "echo my last words; exit 3"]`, "deploy: { restart_policy: { max_attempts: 1 } }"),
		"run", "-f", "-", "--name", "crashing", "--timeout", "20s")
}
