package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func TestClusterFormsAndAgrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		var last uint64
		for i := range 20 {
			last = c.propose(leader, fmt.Sprint(i))
		}
		c.agree(last)

		holders, err := c.members[1].Holders()
		c.must(err)
		if len(holders) != 3 || !holders[0].Voter || !holders[0].Leader || holders[0].ID != leader.ID() {
			t.Errorf("holders as a follower sees them: %+v", holders)
		}
		if !c.members[2].IsHolder() || !c.members[2].Bootstrapped() {
			t.Error("a voter does not know that it holds the log")
		}
		if err := leader.Bootstrap(); !errors.Is(err, job.Conflict) {
			t.Errorf("second bootstrap: %v", err)
		}
		var notLeader *NotLeaderError
		_, err = c.members[1].Propose(c.ctx(), event("x"))
		if !errors.As(err, &notLeader) || notLeader.Addr != leader.addr || !errors.Is(err, job.Unavailable) || job.KindOf(err) != job.Unavailable {
			t.Errorf("a follower's refusal: %v", err)
		}
		if _, err = leader.Propose(c.ctx(), event(string(make([]byte, MaxCommandBytes)))); !errors.Is(err, job.Invalid) {
			t.Errorf("a command over the limit: %v", err)
		}
		c.must(leader.Demote(c.ctx(), c.members[2].ID()))
		c.must(leader.Remove(c.ctx(), c.members[2].ID()))
		if holders, _ = leader.Holders(); len(holders) != 2 {
			t.Errorf("holders after a removal: %+v", holders)
		}
	})
}

func TestLeaderLossEndsItsWorkAndStartsTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		type period struct {
			m    *member
			term uint64
		}
		began, ended := make(chan period, 10), make(chan period, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		for _, m := range c.members {
			work.Go(func() {
				err := m.Lead(ctx, func(ctx context.Context, term uint64) error {
					began <- period{m, term}
					<-ctx.Done()
					time.Sleep(time.Second) // the next term waits for this
					ended <- period{m, term}
					return nil
				})
				if err != nil {
					t.Errorf("%s: Lead: %v", m.addr, err)
				}
			})
		}
		defer work.Wait()
		defer cancel()

		first := <-began
		index := c.propose(first.m, "before")
		lost := time.Now()
		c.net.cut(first.m.addr, true)
		second := <-began
		if second.m == first.m || second.term <= first.term {
			t.Errorf("work went on at %s in term %d", second.m.addr, second.term)
		}
		if d := time.Since(lost); d > 3*time.Second {
			t.Errorf("failover took %v", d)
		}
		if got := <-ended; got != first {
			t.Errorf("ended: %v, want the work of the first leader", got)
		}
		if second.m.store.View().Index() < index {
			t.Error("work began before what was committed was applied")
		}
		if _, err := first.m.Propose(c.ctx(), event("lost")); !errors.Is(err, job.Unavailable) {
			t.Errorf("propose on a leader that was cut off: %v", err)
		}
		index = c.propose(second.m, "after")
		c.net.cut(first.m.addr, false)
		c.agree(index)
	})
}

func TestLeadReturnsTheErrorOfItsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		want := errors.New("broken")
		if err := c.leader().Lead(t.Context(), func(context.Context, uint64) error { return want }); err != want {
			t.Errorf("got %v", err)
		}
	})
}

func TestHandOverOnStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		index := c.propose(leader, "x")
		c.agree(index)
		stopped := time.Now()
		leader.stop()
		c.must(<-leader.done)
		leader.stop = nil
		c.leader(leader)
		if d := time.Since(stopped); d > c.members[0].cfg.Timing.Heartbeat {
			t.Errorf("a leader that stops on purpose left the others without one for %v", d)
		}
	})
}

func TestCrashedMembersComeBackWithTheirState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		index := c.propose(c.leader(), "kept")
		c.agree(index)
		for _, m := range c.members {
			c.crash(m)
		}
		for _, m := range c.members {
			c.net.cut(m.addr, false)
			c.start(m)
		}
		index = c.propose(c.leader(), "more")
		c.agree(index)
		if got := len(c.members[2].store.View().Events(state.EventFilter{})); got != 2 {
			t.Errorf("%d events after the restart, want 2", got)
		}
	})
}

func TestLeadBeginsWithWhatIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		m := c.leader()
		index := c.propose(m, "kept")
		c.crash(m)
		c.net.cut(m.addr, false)
		c.start(m)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c.must(m.Lead(ctx, func(context.Context, uint64) error {
			if got := m.store.View().Index(); got < index {
				t.Errorf("work began at index %d, %d was committed", got, index)
			}
			cancel()
			return nil
		}))
	})
}

// A disk that is slow, and not slow enough for another to lead, delays a leader's work and does not end it.
func TestLeadBeginsAfterASlowFirstAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, net: newMemNet(), logger: quiet(), timing: Timing{DiskStall: time.Minute}}
		defer c.close()
		m := c.add("n0")
		c.must(m.Bootstrap())
		index := c.propose(c.leader(), "kept")
		c.crash(m)
		c.net.cut(m.addr, false)
		var slow sync.Once
		m.before = func(op string) error {
			if op == "append to the log" {
				slow.Do(func() { time.Sleep(enqueueTimeout + 500*time.Millisecond) })
			}
			return nil
		}
		c.start(m)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := false
		c.must(m.Lead(ctx, func(context.Context, uint64) error {
			began = m.store.View().Index() >= index
			cancel()
			return nil
		}))
		if !began {
			t.Error("its work has not begun in a minute, or without what was committed")
		}
	})
}

func TestWriteErrorEndsTheLog(t *testing.T) {
	for role, leads := range map[string]bool{"leader": true, "follower": false} {
		t.Run(role, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3)
				defer c.close()
				leader := c.leader()
				bad := leader
				if !leads {
					bad = c.members[1]
				}
				bad.disk.set(func(s *shakyStore) { s.err = syscall.EIO })
				r, err := leader.Propose(c.ctx(), event("while the disk fails"))
				if leads && !errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("propose on a failing disk was answered with %v, %v", r, err)
				}
				err = <-bad.done
				bad.stop = nil
				var failed *DiskError
				if !errors.As(err, &failed) || failed.Full || failed.Stalled || !errors.Is(err, syscall.EIO) {
					t.Errorf("Run returned %v", err)
				}
				// One good write proves nothing after a bad one: it stays ended.
				bad.disk.set(func(s *shakyStore) { s.err = nil })
				if _, err := bad.Propose(c.ctx(), event("later")); !errors.Is(err, job.Unavailable) {
					t.Errorf("propose after the failure: %v", err)
				}
				c.agree(c.propose(c.leader(bad), "the others go on"))
			})
		})
	}
}

func TestTermThatCannotBeStoredEndsTheLogWithoutAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		leader := c.leader()
		for _, m := range c.members {
			if m != leader {
				m.disk.set(func(s *shakyStore) { s.err = syscall.EIO })
			}
		}
		c.crash(leader) // an election makes them write a term
		failures := 0
		time.Sleep(10 * time.Second)
		for _, m := range c.members {
			select {
			case err := <-m.done:
				m.stop = nil
				failures++
				if !errors.Is(err, syscall.EIO) {
					t.Errorf("%s: %v", m.addr, err)
				}
			default:
			}
		}
		if failures == 0 {
			t.Errorf("nobody noticed: %+v\n%+v", c.members[1].Describe(), c.members[2].Describe())
		}
	})
}

func TestStalledLeaderIsReplacedAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		bad := c.leader()
		hang := make(chan struct{})
		bad.disk.set(func(s *shakyStore) { s.hang = hang })
		stalled := time.Now()
		_, err := bad.Propose(c.ctx(), event("hangs"))
		if !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("the proposal that hung: %v", err)
		}
		if d := time.Since(stalled); d > 5*time.Second {
			t.Errorf("it hung for %v", d)
		}
		good := c.leader(bad)
		if d := time.Since(stalled); d > 7*time.Second {
			t.Errorf("another leader after %v", d)
		}
		_, err = bad.Propose(c.ctx(), event("refused"))
		var disk *DiskError
		if !errors.As(err, &disk) || !disk.Stalled {
			t.Errorf("propose while stalled: %v", err)
		}
		if id, _ := bad.Leader(); bad.IsLeader() || id != "" {
			t.Errorf("it still says that %q leads", id)
		}
		index := c.propose(good, "meanwhile")

		bad.disk.set(func(s *shakyStore) { s.hang = nil })
		close(hang)
		c.agree(index)
		time.Sleep(3 * time.Second)
		if bad.Describe().State != "follower" {
			t.Errorf("after the stall: %+v", bad.Describe())
		}
	})
}

func TestFullDiskRefusesAndRecovers(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n, " voters"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, n)
				defer c.close()
				bad := c.leader()
				c.propose(bad, "before")
				bad.disk.set(func(s *shakyStore) { s.full = true })
				_, err := bad.Propose(c.ctx(), event("no space"))
				if !errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("the proposal that found the disk full: %v", err)
				}
				time.Sleep(time.Minute)
				_, err = bad.Propose(c.ctx(), event("refused"))
				var disk *DiskError
				if !errors.As(err, &disk) || !disk.Full || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("propose while full: %v", err)
				}
				select {
				case err := <-bad.done:
					t.Fatalf("a full disk ended the log: %v", err)
				default:
				}
				if n > 1 {
					c.propose(c.leader(bad), "the others go on")
				}
				bad.disk.set(func(s *shakyStore) { s.full = false })
				time.Sleep(5 * time.Second)
				c.agree(c.propose(c.leader(), "after"))
			})
		})
	}
}

func TestFullDiskDoesNotDelayClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		m := c.leader()
		m.disk.set(func(s *shakyStore) { s.full = true })
		_, _ = m.Propose(c.ctx(), event("x"))
		began := time.Now()
		c.close()
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("closing took %v", d)
		}
	})
}

func TestPromoteWaitsForAStandbyThatLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.close()
		leader := c.leader()
		m := c.add("late")
		c.net.cut(m.addr, true)
		c.must(leader.AddStandby(c.ctx(), m.ID(), m.addr))
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := leader.Promote(short, m.ID()); !errors.Is(err, job.Unavailable) {
			t.Errorf("promote a standby out of reach: %v", err)
		}
		if h, _ := leader.holder(m.ID()); h.Voter {
			t.Error("it has a vote all the same")
		}
		c.net.cut(m.addr, false)
		c.must(leader.Promote(c.ctx(), m.ID()))
		c.agree(c.propose(leader, "with two"))
	})
}

func TestLogTellsChangesAndNotHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines countingWriter
		c := formCluster(t, 3, slog.New(slog.NewTextHandler(&lines, nil)))
		defer c.close()
		c.leader()
		if formed := lines.n.Load(); formed > 25 || formed == 0 {
			t.Errorf("forming a cluster wrote %d lines", formed)
		}
		before := lines.n.Load()
		c.net.cut(c.members[2].addr, true)
		time.Sleep(10 * time.Minute)
		if more := lines.n.Load() - before; more > 10 {
			t.Errorf("a follower's absence of ten minutes wrote %d lines", more)
		}
	})
}

// countingWriter counts lines: slog writes each at once.
type countingWriter struct{ n atomic.Int64 }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.n.Add(1)
	return len(p), nil
}

func TestUnknownEntriesAreNoPanic(t *testing.T) {
	f := fsm{store: state.New()}
	for _, kind := range []raft.LogType{raft.LogNoop, raft.LogBarrier, raft.LogConfiguration, raft.LogType(200)} {
		if got := f.Apply(&raft.Log{Index: 1, Type: kind, Data: []byte("x")}); got != nil {
			t.Errorf("type %v: %v", kind, got)
		}
	}
	for i, raw := range [][]byte{nil, {}, {255}, []byte("a command of a later version")} {
		r, ok := f.Apply(&raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: raw}).(state.Result)
		if !ok || r.Err == nil {
			t.Errorf("%q: %v", raw, r)
		}
	}
}

// A machine whose disk was replaced comes back as another node at the same address, and has promised nothing. It must not
// give the vote of the node that was there: that one may have helped to commit what the asker does not have.
func TestNewNodeAtAnOldAddressHasNoVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		behind, ahead, replaced := c.members[0], c.members[1], c.members[2]
		c.net.cut(behind.addr, true)
		last := c.propose(c.leader(behind), "what the first does not have")
		c.crash(ahead)
		c.crash(replaced)
		c.net.cut(behind.addr, false)
		c.net.cut(replaced.addr, false)
		fresh := &member{addr: replaced.addr, life: "-2", disk: &shakyStore{InmemStore: raft.NewInmemStore()}, snaps: raft.NewInmemSnapshotStore()}
		c.start(fresh)
		c.members[2] = fresh
		for range 300 {
			if time.Sleep(100 * time.Millisecond); behind.IsLeader() {
				t.Fatal("one of three voters leads, with the vote of a node that is none")
			}
		}
		c.net.cut(ahead.addr, false)
		c.start(ahead)
		if l := c.leader(); l != ahead {
			t.Errorf("%s leads, which does not have all that was committed", l.addr)
		}
		c.must(behind.store.WaitIndex(c.ctx(), last))
	})
}

// A disk that hangs while a heartbeat brings a new term keeps that heartbeat's goroutine in raft; when it goes on, the node
// may long be a candidate, and then has a leader for whose sake it refuses the only other one who could win.
func TestLateHeartbeatOfADeadLeaderStopsNoElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		first, late, dead := c.members[0], c.members[1], c.members[2]
		if c.leader() != first {
			t.Fatal("another leads than the test is made for")
		}
		c.net.cut(late.addr, true)
		last := c.propose(first, "what the late one does not have")
		c.must(dead.store.WaitIndex(c.ctx(), last))
		c.crash(dead)
		c.net.cut(first.addr, true)
		c.net.cut(late.addr, false)

		hang := make(chan struct{})
		late.disk.set(func(s *shakyStore) { s.hang = hang })
		trans := newTransport(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: newGate(c.net.listen("ghost", "ghost-id"), c.net.dialer("ghost"), "ghost"), MaxPool: 1, Timeout: time.Second, Logger: &bridge{out: quiet()},
		}), &progress{peers: map[raft.ServerID]peerProgress{}}, "", 0)
		defer trans.Close()
		heartbeat := raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(dead.ID()), Addr: []byte(dead.addr)},
			Term:      first.raft.CurrentTerm() + 5,
		}
		_ = trans.AppendEntries(raft.ServerID(late.ID()), raft.ServerAddress(late.addr), &heartbeat, &raft.AppendEntriesResponse{}) // times out
		time.Sleep(time.Second)
		late.disk.set(func(s *shakyStore) { s.hang = nil })
		close(hang)
		time.Sleep(time.Second)
		c.net.cut(first.addr, false)
		if l := c.leader(); l != first {
			t.Errorf("%s leads, which does not have all that was committed", l.addr)
		}
		c.must(late.store.WaitIndex(c.ctx(), last))
	})
}
