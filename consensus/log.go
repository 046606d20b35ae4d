// Package consensus knows what the nodes agreed on: it keeps the replicated log, takes proposals while this node leads,
// says who leads and who holds the log, and applies every committed command to the state, which is the road by which
// anything becomes true in the cluster. It does not know what the commands mean (consensus/state does), when to propose
// one (node does), or how streams are authenticated (it is given them).
package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// Log is this node's part in the replicated log. All methods may be called from any goroutine.
type Log struct {
	id      job.NodeID
	life    string        // of this node's log, see HolderID
	name    raft.ServerID // in the log
	cfg     Config
	logger  *slog.Logger
	disk    *disk
	gate    *gate
	store   *state.Store
	stores  Stores
	files   io.Closer // nil when the stores were given
	reserve *reserve  // likewise
	trans   transport
	peers   *progress
	raft    *raft.Raft
	leading *leadership
	out     atomic.Pointer[DiskError] // why this node is out of the cluster, nil when it takes part

	reconfiguring sync.Mutex // of raft

	places *semaphore.Weighted // of proposals
	bytes  *semaphore.Weighted // of proposed commands

	ending  atomic.Bool
	endCh   chan struct{} // closed when the log starts to close; nothing new is taken then
	endedCh chan struct{} // closed when it is closed
	endErr  error         // of closing; read after endedCh
	calls   calls         // into raft, that wait for an answer
}

// Open opens the node's log, creates it for a new node, restores the newest snapshot into store, and takes part: from
// here on raft answers its peers, and applies to store what becomes committed. A new node that neither bootstraps nor is
// added by a leader just waits. Run must follow, or Close.
//
// It fails on a directory that another process uses, that is damaged, that lost its log, or whose disk takes no writes.
func Open(cfg Config, store *state.Store) (*Log, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	id := cfg.ID
	if cfg.Dir != "" && id == "" {
		var err error
		if id, _, err = LoadOrCreateID(cfg.Dir); err != nil {
			_ = cfg.Streams.Close()
			return nil, err
		}
	}
	life, err := "", error(nil)
	if cfg.Dir != "" {
		if life, err = Life(cfg.Dir); err != nil {
			_ = cfg.Streams.Close()
			return nil, err
		}
	}
	l := &Log{
		id:      id,
		life:    life,
		name:    raft.ServerID(HolderID(id, life)),
		cfg:     cfg,
		store:   store,
		logger:  cfg.Logger,
		disk:    newDisk(cfg.Dir, cfg.Timing.DiskStall),
		leading: newLeadership(),
		peers:   &progress{peers: make(map[raft.ServerID]peerProgress)},
		places:  semaphore.NewWeighted(maxProposals),
		bytes:   semaphore.NewWeighted(maxPendingBytes),
		endCh:   make(chan struct{}),
		endedCh: make(chan struct{}),
	}
	l.disk.before = cfg.BeforeWrite
	if err := l.open(); err != nil {
		_ = cfg.Streams.Close()
		if l.files != nil {
			_ = l.files.Close()
		}
		return nil, err
	}
	return l, nil
}

func (l *Log) open() error {
	lines := &bridge{out: l.logger, name: "raft"}
	l.stores = l.cfg.Stores
	if l.stores.Log == nil {
		var err error
		if l.stores, l.files, err = openFiles(l.cfg.Dir, l.name, lines); err != nil {
			return err
		}
		l.reserve = newReserve(l.cfg.Dir)
		l.disk.spare = l.useReserve
	}
	l.stores = guardedStores(l.stores, l.disk)
	l.gate = newGate(l.cfg.Streams, l.cfg.Dial, l.cfg.Advertise)
	l.trans = newTransport(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: l.gate, MaxPool: maxPool, Timeout: rpcTimeout, Logger: lines, MsgpackUseNewTimeFormat: true,
		MaxRPCsInFlight: 1, // no pipeline: raft v1.8.0 can hang in it for ever (DESIGN.md)
	}), l.peers, l.name, l.cfg.Timing.Heartbeat)
	r, err := startRaft(l.cfg.raftConfig(l.name, lines), fsm{l.store, l.snapshotWritten, l.outdated}, l.stores, l.trans)
	if err == nil {
		l.raft = r
		l.trans.inbound.raft.Store(r)
		l.disk.setPatient()
		return nil
	}
	_ = l.trans.Close()
	if trouble := l.disk.trouble(); trouble != nil {
		err = trouble
	}
	if old := l.store.Outdated(); old != nil {
		err = old
	}
	return fmt.Errorf("open raft log: %w", err)
}

// snapshotWritten sets how many entries the next snapshot waits for. A node that starts, and a new leader before it takes
// changes, applies what came since the last one again, at 0.1 ms an entry: with a small state a snapshot is cheaper than
// that, a large one is not written every ten seconds.
func (l *Log) snapshotWritten(bytes int64) {
	r := l.trans.inbound.raft.Load()
	if r == nil {
		return
	}
	if err := l.reconfigure(r, func(c *raft.ReloadableConfig) { c.SnapshotThreshold = entriesFor(bytes) }); err != nil {
		l.logger.Warn("raft keeps its old snapshot threshold", "error", err)
	}
}

// reconfigure changes what raft can change while it runs; raft itself does not put one change behind the other.
func (l *Log) reconfigure(r *raft.Raft, change func(*raft.ReloadableConfig)) error {
	l.reconfiguring.Lock()
	defer l.reconfiguring.Unlock()
	c := r.ReloadableConfig()
	change(&c)
	return r.ReloadConfig(c)
}

// entriesFor is how many entries a snapshot of that size waits for: 2,048 for an empty state, one more for each 8 KiB, at
// most 8,192.
func entriesFor(bytes int64) uint64 {
	return min(snapshotThreshold+uint64(bytes)>>13, 4*snapshotThreshold)
}

// useReserve gives up the space that was set aside for a full disk, once.
func (l *Log) useReserve() bool {
	if !l.reserve.release() {
		return false
	}
	l.logger.Error("disk full: the log goes on in the space set aside for this; free some space now",
		"node", l.id, "dir", l.cfg.Dir, "bytes", reserveBytes)
	return true
}

// startRaft runs NewRaft on a goroutine of its own, which the guarded stores may end (see stop).
func startRaft(rc *raft.Config, f raft.FSM, s Stores, t raft.Transport) (r *raft.Raft, err error) {
	err = errors.New("its stores cannot be read or written")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("its content is damaged: %v", p)
			}
		}()
		r, err = raft.NewRaft(rc, f, s.Log, s.Stable, s.Snapshots, t)
	}()
	<-done
	return r, err
}

// ID is this node's id.
func (l *Log) ID() job.NodeID { return l.id }

// Life is "" unless this node's log was damaged once and begun anew.
func (l *Log) Life() string { return l.life }

// Run watches over the log until ctx ends (nil: a leader hands over first if it can), the disk fails (a *DiskError: nothing
// was acknowledged after it, and the process should end), or the others' build is too new for this one (a
// *state.OutdatedError, likewise). The log is closed when it returns.
func (l *Log) Run(ctx context.Context) error {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx)) // they see the handing over to its end
	defer stop()
	var parts sync.WaitGroup
	parts.Go(func() { l.watchLeader(watching) })
	parts.Go(func() { l.watchDisk(watching) })
	parts.Go(func() { l.watchContact(watching) })
	if l.reserve != nil {
		go l.reserve.keep(watching, l.logger) // not waited for: the disk may hang
	}

	err := l.wait(ctx)
	if err == nil {
		l.handOver()
	}
	stop()
	parts.Wait()
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	return err
}

// wait returns nil when ctx ends, or the failure that ends the log.
func (l *Log) wait(ctx context.Context) error {
	for {
		changed := l.leading.changes() // watchDisk publishes there
		if err := l.failure(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.endCh:
			return nil
		case <-changed:
		}
	}
}

// failure is what ends the log for good; nil while all is well.
func (l *Log) failure() error {
	if err := l.disk.failure(); err != nil {
		return err
	}
	return l.store.Outdated()
}

// outdated takes a node out of the cluster that cannot apply what the others apply.
func (l *Log) outdated() {
	l.gate.setShut(true)
	l.leading.wake() // calls under way give up, and Run ends
}

// handOver spares the cluster an election timeout when a leader stops on purpose.
func (l *Log) handOver() {
	if !l.IsLeader() || !l.hasOtherVoter() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := l.TransferLeadership(ctx, ""); err != nil {
		l.logger.Debug("stopping without handing over leadership", "err", err)
	}
}

// Close ends the log: no call is taken any more, those under way get a moment, raft and its streams end, the files are
// closed. It waits at most a few seconds for a disk that hangs. Closing twice does no harm.
func (l *Log) Close() error {
	if l.ending.CompareAndSwap(false, true) {
		close(l.endCh)
		l.calls.drain(drainTimeout)
		l.endErr = l.closeParts()
		close(l.endedCh)
	}
	<-l.endedCh
	return l.endErr
}

func (l *Log) closeParts() error {
	l.leading.set(false, 0)
	stopped := make(chan struct{})
	future := l.raft.Shutdown()
	_ = l.gate.Close() // before waiting: raft's goroutines may be in the middle of a call to a peer that does not answer
	l.disk.close()
	go func() {
		_ = future.Error()
		if l.files != nil {
			_ = l.files.Close()
		}
		close(stopped)
	}()
	select {
	case <-stopped:
		return nil
	case <-time.After(closeTimeout):
		return fmt.Errorf("close raft log: the disk did not finish a write within %v", closeTimeout)
	}
}

// Bootstrap makes this node the first and only voter of a new cluster. It is job.Conflict when the log has anything in
// it already.
func (l *Log) Bootstrap() error {
	first := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: l.name, Address: raft.ServerAddress(l.cfg.Advertise),
	}}}
	ctx, stop := l.whileDiskWorks()
	defer stop()
	err := l.call(ctx, func() error {
		if err := l.forgetHalfBootstrap(); err != nil {
			return err
		}
		return l.raft.BootstrapCluster(first).Error()
	})
	if errors.Is(err, raft.ErrCantBootstrap) {
		return job.Errorf(job.Conflict, "bootstrap: this node already belongs to a cluster")
	}
	if failed := l.disk.failure(); failed != nil {
		return failed
	}
	return err
}

// whileDiskWorks ends with the disk's failure. That ends raft's own goroutine too (see stop), which then answers nobody,
// and before Run there is no watchdog.
func (l *Log) whileDiskWorks() (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = context.WithCancel(context.Background())
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if l.disk.failure() != nil {
					stop()
				}
			}
		}
	}()
	return ctx, stop
}

// forgetHalfBootstrap undoes what a crash in the middle of bootstrapping leaves: raft stores term 1 before the first entry,
// and then takes the log for one that was in use. Nothing was promised in that term when there is no vote.
func (l *Log) forgetHalfBootstrap() error {
	term, err := l.stores.Stable.GetUint64([]byte("CurrentTerm"))
	if err != nil || term != 1 || l.raft.LastIndex() > 0 {
		return nil // no term, or a log
	}
	if voted, err := l.stores.Stable.GetUint64([]byte("LastVoteTerm")); err == nil && voted > 0 {
		return nil
	}
	return l.stores.Stable.SetUint64([]byte("CurrentTerm"), 0)
}

// Bootstrapped tells whether this node ever belonged to a cluster: its log or a snapshot holds something.
func (l *Log) Bootstrapped() bool {
	return l.raft.LastIndex() > 0
}
