package nodetest

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// disk makes the writes of a machine's log slow, or hang. Its zero value does nothing.
type disk struct {
	mu     sync.Mutex
	delay  time.Duration
	until  time.Time // writes hang until then
	err    error     // writes fail
	failed bool      // some may have, since the agent's start
}

// started says that an agent starts.
func (d *disk) started() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = d.err != nil
}

// Slow makes every write of the machine's log take this much longer; 0 ends it.
func (m *Machine) Slow(d time.Duration) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.delay = d
}

// Hang makes every write of the machine's log take at least until now and d.
func (m *Machine) Hang(d time.Duration) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.until = time.Now().Add(d)
}

func (d *disk) wait(ctx context.Context) error {
	d.mu.Lock()
	w, err := max(d.delay, time.Until(d.until)), d.err
	d.mu.Unlock()
	if err != nil || w <= 0 {
		return err
	}
	t := time.NewTimer(w)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errors.New("the machine went away in the middle of a write")
	}
}

// KillAgent ends the agent as SIGKILL would, as far as that can be had in one process: before it is asked to end its
// network is cut, so that it hands nothing over and says nothing, and what it saved of its tasks afterwards is undone.
// What raft writes in that time stays; nobody heard of it, so it is what a disk holds that was faster than the network.
// Until it has ended, its port is silent; a real one would refuse. Containers run on.
func (m *Machine) KillAgent() {
	m.c.Net.SetDown(m.Addr.Addr(), true)
	saved := saveFiles(m.dir(), "feed.json", "tasks/assignments.json", "tasks/statuses.json")
	_ = m.StopAgent() // whatever it says does not matter any more
	saved.restore()
	m.c.Net.SetDown(m.Addr.Addr(), false)
}

// PowerCut is PowerOff for a machine whose containers are still there, ended, when it is back.
func (m *Machine) PowerCut() {
	m.c.Net.SetDown(m.Addr.Addr(), true)
	saved := saveFiles(m.dir(), "feed.json", "tasks/assignments.json", "tasks/statuses.json")
	_ = m.StopAgent() // nobody hears it say anything any more
	saved.restore()
	m.Runtime.PowerCut()
}

// powerOff is PowerOff that does not wait until the agent has ended, which takes a while that a real power cut does not.
func (m *Machine) powerOff() (ended <-chan error) {
	m.c.Net.SetDown(m.Addr.Addr(), true)
	m.cancel()
	m.cancel, m.node = nil, nil
	m.Runtime.Crash()
	return m.done
}

// Wipe empties the disk of a machine that is off: it forgets whom it belongs to.
func (m *Machine) Wipe() {
	if m.cancel != nil {
		m.c.t.Fatalf("wipe %s: its agent runs", m.Name)
	}
	m.Runtime.Crash()
	m.life++
}

// Join brings a machine up that is off, as a new member.
func (m *Machine) Join(via []string, token string) {
	m.c.Net.SetDown(m.Addr.Addr(), false)
	m.BuildsBehind = 0 // who sets a machine up installs what the others have
	m.start(via, token)
}

// Exited tells how the agent ended by itself; false while it runs or if nobody started it.
func (m *Machine) Exited() (error, bool) {
	if m.cancel == nil {
		return nil, false
	}
	select {
	case err := <-m.done:
		m.cancel()
		m.cancel, m.node = nil, nil
		return err, true
	default:
		return nil, false
	}
}

// Off tells whether the agent does not run.
func (m *Machine) Off() bool { return m.cancel == nil }

// savedFiles are small files as they were; nil content stands for a file that was not there.
type savedFiles map[string][]byte

func saveFiles(dir string, names ...string) savedFiles {
	s := savedFiles{}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			panic("nodetest: " + err.Error())
		}
		s[filepath.Join(dir, name)] = b
	}
	return s
}

func (s savedFiles) restore() {
	for path, b := range s {
		var err error
		if b == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			panic("nodetest: " + err.Error())
		}
	}
}

// cutPair stops all between two machines.
func (c *Cluster) cutPair(a, b *Machine) {
	c.Net.Cut(a.Addr.Addr(), b.Addr.Addr())
	c.Net.Cut(b.Addr.Addr(), a.Addr.Addr())
}

func addrs(ms []*Machine) []netip.Addr {
	var out []netip.Addr
	for _, m := range ms {
		out = append(out, m.Addr.Addr())
	}
	return out
}
