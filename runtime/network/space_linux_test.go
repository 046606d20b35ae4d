package network

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// alone starts a process that alone keeps a network namespace, as a container's first one does.
func alone(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// A port is held by a socket that nobody reads from: no client may end up there, whatever becomes of the port meanwhile.
func TestNobodyIsTakenInByAHeldPort(t *testing.T) {
	host, n := node(t, 1)
	client := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", client, "wan", "192.0.2.9/24")
	silent := newSpace(t) // refuses, as long as it is there
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			a := Attachment{ID: "silent", NetNS: silent.path(), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}}
			if _, err := n.Attach(context.Background(), a); err != nil {
				t.Error(err)
				return
			}
			if err := n.Detach(context.Background(), "silent"); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for began := time.Now(); time.Since(began) < 3*time.Second; {
		for _, s := range []*space{client, host} {
			if got := s.ask("tcp", "192.0.2.1:8080", patience); !strings.HasSuffix(got, "connection refused") {
				t.Errorf("got %q", got)
			}
		}
	}
	close(stop)
	<-done
}

// A client whose machine is off the network while its connection and the container go leaves a flow behind that conntrack
// takes for alive. The same port of the client must lead to who has the port now.
func TestAFlowToAContainerThatIsGoneIsForgotten(t *testing.T) {
	host, n := node(t, 1)
	client := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", client, "wan", "192.0.2.9/24")
	port := Port{HostPort: 8080, ContainerPort: 80}
	old, _ := attach(t, n, "old", port)
	old.serveTCP("old", ":80")
	ask := func() (*net.TCPConn, string) {
		t.Helper()
		var c net.Conn
		client.do(func() (err error) {
			d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: 40_000}}
			c, err = d.Dial("tcp", "192.0.2.1:8080")
			return err
		})
		_ = c.SetDeadline(time.Now().Add(patience))
		b := make([]byte, 3)
		_, err := io.ReadFull(c, b)
		client.must(err)
		return c.(*net.TCPConn), string(b)
	}
	c, said := ask()
	if said != "old" {
		t.Fatalf("%q answers", said)
	}
	client.must(client.nl.LinkSetDown(client.link("wan")))
	client.must(c.SetLinger(0))
	client.must(c.Close())
	host.must(n.Detach(t.Context(), "old"))
	successor, _ := attach(t, n, "new", port)
	successor.serveTCP("new", ":80")
	n.flushing.Wait()
	client.must(client.nl.LinkSetUp(client.link("wan")))
	c, said = ask()
	c.Close()
	if said != "new" {
		t.Errorf("%q answers", said)
	}
}

// A container's namespace goes with its last process, and its end is heard of later: who is led to it in between is
// refused, as by a machine whose server has ended, and does not wait for somebody who has the address.
func TestAContainerThatEndedRefuses(t *testing.T) {
	host := newSpace(t)
	cfg := nodeConfig(1)
	cfg.Dir = t.TempDir()
	first := host.network(cfg)
	host.must(first.Setup(t.Context()))
	client := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", client, "wan", "192.0.2.9/24")
	ended := func(cmd *exec.Cmd) {
		t.Helper()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		time.Sleep(500 * time.Millisecond) // in which the kernel removes a namespace that nobody keeps
		for _, s := range []*space{client, host} {
			if got := s.ask("tcp", "192.0.2.1:8080", patience); got != "dial tcp 192.0.2.1:8080: connect: connection refused" {
				t.Errorf("got %q", got)
			}
		}
	}
	cmd := alone(t)
	a := Attachment{ID: "web", PID: cmd.Process.Pid, Ports: []Port{{HostPort: 8080, ContainerPort: 80}}}
	_, err := first.Attach(t.Context(), a)
	host.must(err)
	ended(cmd)

	again := alone(t) // started anew, and then the agent is
	a.PID = again.Process.Pid
	_, err = first.Attach(t.Context(), a)
	host.must(err)
	first.leaveSpaces()
	second := host.network(cfg)
	host.must(second.Setup(t.Context()))
	host.must(second.Adopt(map[string]netip.Addr{"web": {}}))
	host.must(second.Keep("web", again.Process.Pid))
	host.must(second.Keep("unknown", again.Process.Pid))
	ended(again)
	if len(second.spaces) != 1 {
		t.Errorf("%d namespaces are kept", len(second.spaces))
	}
	host.must(second.Detach(t.Context(), "web"))
	if _, err := host.nl.LinkByName(vethName("web")); !notFound(err) || len(second.spaces) != 0 {
		t.Errorf("after detaching: link %v, %d namespaces", err, len(second.spaces))
	}
}
