package consensus

// What tests of whole clusters are made of: members in memory, on a network and disks that can be broken.

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// shakyStore is raft's in-memory store with a bad disk under it.
type shakyStore struct {
	*raft.InmemStore
	mu   sync.Mutex
	hang chan struct{} // writes wait until it is closed
	err  error         // writes fail
	full bool          // writes find no space
	slow time.Duration // writes take up to so long
}

func (s *shakyStore) weather() error {
	s.mu.Lock()
	hang, err, full, slow := s.hang, s.err, s.full, s.slow
	s.mu.Unlock()
	if slow > 0 {
		time.Sleep(rand.N(slow))
	}
	if hang != nil {
		<-hang
	}
	if full {
		return &fs.PathError{Op: "write", Path: "raft.db", Err: syscall.ENOSPC}
	}
	return err
}

func (s *shakyStore) set(f func(*shakyStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *shakyStore) StoreLogs(logs []*raft.Log) error {
	if err := s.weather(); err != nil {
		return err
	}
	return s.InmemStore.StoreLogs(logs)
}

func (s *shakyStore) Set(k, v []byte) error {
	if err := s.weather(); err != nil {
		return err
	}
	return s.InmemStore.Set(k, v)
}

func (s *shakyStore) SetUint64(k []byte, v uint64) error {
	if err := s.weather(); err != nil {
		return err
	}
	return s.InmemStore.SetUint64(k, v)
}

// member is one node of a test cluster.
type member struct {
	*Log
	now  atomic.Pointer[Log] // the same, for goroutines that go on while it is started again
	addr string
	life string // of a disk that was replaced
	dir  string // with real files; "": its disk is in memory
	// before is called before each write; nil: nothing.
	before func(op string) error
	old    bool // it runs a build that does not know the newest rules
	store  *state.Store
	disk   *shakyStore // hides Log.disk
	snaps  raft.SnapshotStore
	stop   context.CancelFunc
	done   chan error
}

type cluster struct {
	t       *testing.T
	net     *memNet
	logger  *slog.Logger
	members []*member
	// trailing is how many entries members keep behind a snapshot; 0: as many as an agent.
	trailing uint64
	timing   Timing // zero fields: as an agent's
}

func quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))
}

// newCluster forms a cluster of n voters in memory, led by the first.
func newCluster(t *testing.T, n int) *cluster {
	return formCluster(t, n, quiet())
}

func formCluster(t *testing.T, n int, logger *slog.Logger) *cluster {
	c := &cluster{t: t, net: newMemNet(), logger: logger}
	for i := range n {
		c.add(fmt.Sprintf("n%d", i))
	}
	first := c.members[0]
	if err := first.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	c.leader()
	for _, m := range c.members[1:] {
		c.must(first.AddStandby(c.ctx(), m.ID(), m.addr))
		c.must(first.Promote(c.ctx(), m.ID()))
	}
	return c
}

func (c *cluster) add(name string) *member { return c.addOn(name, "") }

// addOn adds a member with real files in dir.
func (c *cluster) addOn(name, dir string) *member {
	m := &member{addr: name, dir: dir, disk: &shakyStore{InmemStore: raft.NewInmemStore()}, snaps: raft.NewInmemSnapshotStore()}
	if dir != "" {
		c.must(os.MkdirAll(dir, dirMode))
	}
	c.start(m)
	c.members = append(c.members, m)
	return m
}

// start starts a member, with what its disk holds.
func (c *cluster) start(m *member) {
	c.t.Helper()
	l, err := c.open(m)
	c.must(err)
	ctx, stop := context.WithCancel(context.Background())
	m.Log, m.stop, m.done = l, stop, make(chan error, 1)
	m.now.Store(l)
	go func() { m.done <- l.Run(ctx) }()
}

func (c *cluster) open(m *member) (*Log, error) {
	m.store = state.New()
	if m.old {
		m.store = state.NewKnowing(state.Rules - 1)
	}
	id := job.NodeID(m.addr + "-id" + m.life)
	cfg := Config{
		ID: id, Dir: m.dir, Advertise: m.addr, Streams: c.net.listen(m.addr, id), Dial: c.net.dialer(m.addr),
		Logger: c.logger, Timing: c.timing, BeforeWrite: m.before, trailing: c.trailing,
	}
	if m.dir == "" {
		cfg.Stores = Stores{Log: m.disk, Stable: m.disk, Snapshots: m.snaps}
	}
	return Open(cfg, m.store)
}

// close stops all and checks that each was asked to.
func (c *cluster) close() {
	for _, m := range c.members {
		if m.stop == nil {
			continue
		}
		m.stop()
		if err := <-m.done; err != nil {
			c.t.Errorf("%s: %v", m.addr, err)
		}
	}
}

// crash ends a member at once, without handing over.
func (c *cluster) crash(m *member) {
	c.net.cut(m.addr, true)
	c.must(m.Close())
	m.stop()
	<-m.done
	m.stop = nil
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	context.AfterFunc(c.t.Context(), cancel)
	return ctx
}

// leader waits for a leader other than those given.
func (c *cluster) leader(not ...*member) *member {
	c.t.Helper()
	for range 6000 {
	members:
		for _, m := range c.members {
			for _, n := range not {
				if m == n {
					continue members
				}
			}
			if m.stop != nil && m.IsLeader() && m.VerifyLeader(c.ctx()) == nil {
				return m
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatal("no leader in a minute")
	return nil
}

func event(text string) state.Command {
	return state.Event{Event: job.Event{Kind: job.EventVoters, Message: text}, At: time.Unix(1, 0)}
}

func (c *cluster) propose(m *member, text string) uint64 {
	c.t.Helper()
	r, err := m.Propose(c.ctx(), event(text))
	c.must(err)
	c.must(r.Err)
	return r.Index
}

// agree waits until every running member has applied index, and checks that their states are the same.
func (c *cluster) agree(index uint64) {
	c.t.Helper()
	var want [32]byte
	for i, m := range c.members {
		if m.stop == nil {
			continue
		}
		c.must(m.store.WaitIndex(c.ctx(), index))
		got := m.store.View().Hash()
		if want == ([32]byte{}) {
			want = got
		}
		if got != want {
			c.t.Errorf("member %d has another state at index %d", i, index)
		}
	}
}
