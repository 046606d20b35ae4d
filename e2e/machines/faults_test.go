package machines

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the agent of these tests: it appends a byte to a file and syncs it, a hundred times a second, and says
// in another file how many it has, or what went wrong.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "agent" {
		write(os.Args[3])
	}
	if len(os.Args) > 2 && os.Args[1] == "listen" {
		answer(os.Args[2])
	}
	os.Exit(m.Run())
}

func write(dir string) {
	fail(os.MkdirAll(dir, 0o755))
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	fail(err)
	var waste [][]byte
	for ; ; time.Sleep(10 * time.Millisecond) {
		_, err := f.WriteString("x")
		fail(err)
		fail(f.Sync())
		waste = append(waste, make([]byte, 10<<10))
		_ = waste[len(waste)-1][0]
	}
}

func testNet(t *testing.T, count int) (*Net, []*Machine) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines out of namespaces take root")
	}
	self, err := os.Executable()
	must(t, err)
	n, err := New(Options{Binary: self})
	must(t, err)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
		if err := n.Gone(); err != nil {
			t.Error(err)
		}
	})
	for range count {
		m, err := n.Add(MachineOptions{DiskExt4: 64 << 20})
		must(t, err)
		must(t, m.PowerOn())
	}
	return n, n.Machines()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sh runs a script in a machine and gives what it prints.
func sh(t *testing.T, m *Machine, script string) string {
	t.Helper()
	out, err := m.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s# %s: %v: %s", m.Name, script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func pings(m, to *Machine, args ...string) bool {
	return m.Command(append([]string{"busybox", "ping", "-q", "-c", "1", "-W", "1", to.Addr.String()}, args...)...).Run() == nil
}

func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	must(t, await(30*time.Second, what, cond))
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return 0
	}
	must(t, err)
	return info.Size()
}

// A power cut keeps what was synced, loses what was not, and gives the machine another boot id; also while other machines
// and strangers hold copies of the mount.
func TestPowerCut(t *testing.T) {
	_, all := testNet(t, 2)
	m := all[0]
	boot := sh(t, m, "cat "+kernelBootID)
	if other := sh(t, all[1], "cat "+kernelBootID); other == boot || len(boot) != 36 {
		t.Errorf("the boot ids are %q and %q", boot, other)
	}
	sh(t, m, "cd "+m.disk()+" && echo kept > synced && sync synced . && echo lost > unsynced")
	must(t, all[1].PowerOff())
	must(t, all[1].PowerOn()) // has a copy of the mount now
	cut, err := m.PowerCut()
	must(t, err)
	if !cut.Recovered {
		t.Errorf("the file system was not in use: %+v", cut)
	}
	if m.On() {
		t.Error("the machine is on")
	}
	must(t, m.PowerOn())
	if got := sh(t, m, "cat "+m.disk()+"/synced"); got != "kept" {
		t.Errorf("what was synced is %q", got)
	}
	if got := sh(t, m, "cat "+m.disk()+"/unsynced 2>/dev/null || true"); got == "lost" {
		t.Error("what was not synced is there")
	}
	if now := sh(t, m, "cat "+kernelBootID); now == boot {
		t.Error("the boot id is the same after a power cut")
	}
}

func TestDiskFreezesAndFillsUp(t *testing.T) {
	_, all := testNet(t, 1)
	m := all[0]
	must(t, m.Start())
	log := filepath.Join(m.DataDir(), "log")
	wait(t, "writes", func() bool { return size(t, log) > 3 })
	must(t, m.FreezeDisk())
	at := size(t, log)
	time.Sleep(300 * time.Millisecond)
	if now := size(t, log); now > at+1 { // one was on its way
		t.Errorf("a frozen disk took %d writes", now-at)
	}
	must(t, m.ThawDisk())
	must(t, m.ThawDisk())
	wait(t, "writes after the thaw", func() bool { return size(t, log) > at+3 })

	must(t, m.FillDisk(0))
	if free, err := m.DiskFree(); err != nil || free > 64<<10 {
		t.Errorf("%d bytes are free on a full disk (%v)", free, err)
	}
	if out, err := m.Command("dd", "if=/dev/zero", "of="+m.disk()+"/more", "bs=1M", "count=1").CombinedOutput(); err == nil || !strings.Contains(string(out), "No space") {
		t.Errorf("a full disk took a MiB: %v: %s", err, out)
	}
	must(t, m.EmptyDisk())
	must(t, m.EmptyDisk())
	sh(t, m, "dd if=/dev/zero of="+m.disk()+"/more bs=1M count=1")

	must(t, m.FreezeDisk())
	must(t, m.PowerOff()) // whatever waits for the disk must not hold it up
}

func TestSpoiltCalls(t *testing.T) {
	_, all := testNet(t, 1)
	m := all[0]
	must(t, m.Start())
	log := filepath.Join(m.DataDir(), "log")
	wait(t, "writes", func() bool { return size(t, log) > 3 })

	in, err := m.SpoilAgent("fdatasync,fsync", "delay_enter=500000", log)
	must(t, err)
	wait(t, "a delayed call", func() bool { n, err := in.Hits(); return err == nil && n > 0 })
	must(t, in.End())
	must(t, in.End())
	at := size(t, log)
	wait(t, "writes without strace", func() bool { return size(t, log) > at+10 })

	in, err = m.SpoilAgent("fdatasync,fsync", "error=EIO", filepath.Join(m.DataDir(), "other"))
	must(t, err)
	time.Sleep(200 * time.Millisecond)
	if n, err := in.Hits(); err != nil || n != 0 || !m.Running() {
		t.Errorf("calls on another file: %d spoilt (%v), runs %v", n, err, m.Running())
	}
	must(t, in.End())

	in, err = m.SpoilAgent("fdatasync,fsync", "error=EIO", log)
	must(t, err)
	if code, err := m.AwaitEnd(30 * time.Second); err != nil || code != 3 {
		t.Errorf("it ended with %d (%v), want its own 3", code, err)
	}
	if n, err := in.Hits(); err != nil || n == 0 {
		t.Errorf("%d calls failed (%v)", n, err)
	}
	must(t, in.End())
}

func TestSqueezedAgentIsKilled(t *testing.T) {
	_, all := testNet(t, 1)
	m := all[0]
	must(t, m.Start())
	s, err := m.SqueezeAgent(512 << 10)
	must(t, err)
	wait(t, "the agent to be killed", func() bool { return !m.Running() })
	if n, err := s.Kills(); err != nil || n != 1 {
		t.Errorf("%d killed (%v)", n, err)
	}
	must(t, s.End())
	must(t, s.End())
	must(t, m.Start())
	s, err = m.SqueezeAgent(64 << 20)
	must(t, err)
	must(t, s.End())
	if !m.Running() {
		t.Error("an agent that was let go ended")
	}
	must(t, m.Signal(syscall.SIGSTOP))
	wait(t, "it to be stopped", func() bool { return Stopped(m.AgentPID()) })
	must(t, m.Signal(syscall.SIGCONT))
}

func TestTroubles(t *testing.T) {
	n, all := testNet(t, 3)
	a, b, c := all[0], all[1], all[2]
	for _, m := range all {
		listen(t, m)
	}
	for _, test := range []struct {
		name  string
		rules Rules
		try   func() string // "": the fault is there
	}{
		{"pair", Pair(a, b, ""), func() string { return is(!pings(a, b) && pings(a, c) && pings(b, c)) }},
		{"split", Split("", []*Machine{a}, []*Machine{b, c}), func() string { return is(!pings(a, b) && !pings(a, c) && pings(b, c)) }},
		{"only UDP", Pair(a, b, OnlyUDP), func() string {
			return is(pings(a, b) && connects(t, a, b) && !datagram(t, a, b))
		}},
		{"only TCP", Pair(a, b, OnlyTCP), func() string { return is(pings(a, b) && !connects(t, a, b) && datagram(t, a, b)) }},
		{"one way", OneWay(a, b, ""), func() string { return is(!datagram(t, a, b) && datagram(t, b, a)) }},
		{"black hole", BlackHole(a, 1000), func() string { return is(pings(a, b) && !pings(a, b, "-s", "1200") && pings(b, c, "-s", "1200")) }},
		{"resets", nil, func() string { return is(pings(a, b) && !connects(t, a, b) && connects(t, b, c)) }},
		{"loss", Lossy(99), func() string { return is(!pings(a, b)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			other, err := n.Make(Pair(b, c, OnlyUDP)) // faults do not know of each other
			must(t, err)
			must(t, other.End())
			trouble, err := n.Make(test.rules)
			if test.rules == nil {
				trouble, err = n.Resets(a, 999)
			}
			must(t, err)
			if why := test.try(); why != "" {
				t.Error(why)
			}
			if hits, err := trouble.Hits(); err != nil || hits == 0 {
				t.Errorf("%d frames met it (%v)", hits, err)
			}
			must(t, trouble.End())
			must(t, trouble.End())
			// The kernel asks for a neighbour that did not answer again once a second: the first packet may come too late.
			wait(t, "the fault's end to be seen", func() bool { return pings(a, b, "-s", "1200") && connects(t, a, b) && datagram(t, a, b) })
		})
	}
}

func is(good bool) string {
	if good {
		return ""
	}
	return "it does not act as it should, or on others too"
}

// connects tells whether TCP passes both ways.
func connects(t *testing.T, from, to *Machine) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp4", to.Addr.String()+":7000")
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(1500 * time.Millisecond))
	line := "hello\n"
	if _, err := conn.Write([]byte(line)); err != nil {
		return false
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && got == line
}

// datagram tells whether UDP passes, one way.
func datagram(t *testing.T, from, to *Machine) bool {
	t.Helper()
	before := size(t, heard(to))
	conn, err := from.DialContext(t.Context(), "udp4", to.Addr.String()+":7000")
	must(t, err)
	defer conn.Close()
	return await(time.Second, "", func() bool {
		_, err := conn.Write([]byte("x"))
		must(t, err)
		return size(t, heard(to)) > before
	}) == nil
}

func heard(m *Machine) string { return filepath.Join(m.dir, "heard") }

// listen starts what answers on port 7000 of a machine.
func listen(t *testing.T, m *Machine) {
	t.Helper()
	cmd := m.Command(m.net.opts.Binary, "listen", heard(m))
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	wait(t, "what listens on "+m.Name, func() bool { return size(t, heard(m)) > 0 })
}

// answer echoes TCP, and appends what comes by UDP to a file.
func answer(path string) {
	f, err := os.Create(path)
	fail(err)
	l, err := net.Listen("tcp4", ":7000")
	fail(err)
	u, err := net.ListenPacket("udp4", ":7000")
	fail(err)
	_, err = f.WriteString("ready")
	fail(err)
	go func() {
		for b := make([]byte, 10); ; {
			n, _, err := u.ReadFrom(b)
			fail(err)
			_, err = f.Write(b[:n])
			fail(err)
		}
	}()
	for {
		conn, err := l.Accept()
		fail(err)
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // until the other end is gone
		}()
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}
