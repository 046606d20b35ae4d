package consensus

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
)

// Limits of a log.
const (
	// MaxCommandBytes bounds one encoded command. Larger ones are refused before they reach the log: an entry is held
	// in memory by every log-holder, and sent whole, so one huge entry delays the heartbeat of everything behind it.
	MaxCommandBytes = 8 << 20
	// maxProposals bounds proposals that wait for an answer; further ones wait for a place.
	maxProposals = 1024
	// maxPendingBytes bounds the commands that wait for an answer, and with them the size of a batch that raft sends.
	maxPendingBytes = 64 << 20

	snapshotRetain    = 2    // snapshots kept: the newest, and one to fall back to when it cannot be read
	snapshotThreshold = 2048 // entries since the last snapshot that make a new one worth writing, if it is small
	trailingLogs      = 4096 // entries kept behind a snapshot, so that a standby that was away briefly needs no snapshot
	snapshotInterval  = 10 * time.Second
	maxPool           = 3               // idle connections kept to each peer
	rpcTimeout        = 5 * time.Second // one raft RPC, the peer's fsync included
	drainTimeout      = time.Second     // for calls in flight when the log closes
	closeTimeout      = 5 * time.Second // for raft's goroutines to end; a stalled disk may hold them for longer
	fullRetry         = time.Second     // between tries of a write that found the disk full
)

// Config says where the log lives and how it reaches its peers. Dir (or Stores and ID), Advertise, Streams and Dial
// are required.
type Config struct {
	// Dir is the raft directory, "<data>/raft": the node's id, the log and the snapshots, and nothing else. They live
	// and die together: an id without its log is a node that forgot what it promised (see LoadOrCreateID).
	Dir string
	// ID overrides the id in Dir; only for Stores without a directory.
	ID job.NodeID
	// Advertise is the host:port that others dial; it stands in the log's configuration.
	Advertise string
	// Streams yields authenticated raft streams. The Log owns it: it accepts from Open on, and closes it in the end.
	Streams net.Listener
	// Dial opens an authenticated raft stream to a peer's advertised address. It must fail if another node than id is
	// there: votes are safe only if each is its owner's. id is its name in the log: NodeOf. It must honour ctx.
	Dial func(ctx context.Context, id job.NodeID, addr string) (net.Conn, error)
	// Timing is how patient the log is; zero fields take their defaults.
	Timing Timing
	// Logger takes changes and decisions; nil: slog.Default().
	Logger *slog.Logger
	// BeforeWrite is called before every write of the log, for tests of slow and failing disks: it may take its time, and
	// its error is the write's. It must return when the log closes, or closing takes closeTimeout. nil: nothing.
	BeforeWrite func(op string) error
	// Stores replaces the files in Dir, for tests; all three or none. They are guarded in the same way.
	Stores Stores

	trailing uint64 // 0: trailingLogs; for tests of cutting the log
}

// Stores are where raft keeps what it must not forget. The zero value means files in Config.Dir.
type Stores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
}

// Timing is the patience of a log. All of it is monotonic time.
type Timing struct {
	// Heartbeat is how long a follower waits without a word from the leader before it asks for an election: 500 ms.
	// A tenth of it is the interval of heartbeats to each other log-holder. Shorter finds a dead leader sooner, and
	// takes a slow one for dead more often (each election stops proposals for about twice this time).
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes before it tries again: 500 ms; not below Heartbeat.
	Election time.Duration
	// Lease is how long a leader that reaches no quorum goes on before it steps down: 400 ms; at most Heartbeat, or
	// two leaders could believe in themselves for longer than needed. A pause of the process (or a garbage collection
	// on a starved machine) of this length costs an election. The defaults here fail over in 0.52 s (median; p99 0.65, at
	// most 0.75 s in 2,000 losses of the leader of five in fake time, fsyncs of up to 12 ms); without succession.go it was
	// 0.97 s (p99 1.32 s), with raft's own defaults, twice as long, 1.9 s (up to 2.8 s).
	Lease time.Duration
	// Commit is how long a follower may lag behind in knowing what is committed when nothing new is proposed: 50 ms.
	Commit time.Duration
	// DiskStall is how long one write of the log may take before the node is taken out of the cluster: 3 s. Raft
	// itself would leave a leader with a hanging disk in office for ever. Shorter is quicker at failing over from a bad
	// disk, and takes the pauses of a cheap one (seconds, while it flushes) for a stall.
	DiskStall time.Duration
}

// DefaultTiming is for machines on one network.
func DefaultTiming() Timing {
	return Timing{
		Heartbeat: 500 * time.Millisecond,
		Election:  500 * time.Millisecond,
		Lease:     400 * time.Millisecond,
		Commit:    50 * time.Millisecond,
		DiskStall: 3 * time.Second,
	}
}

func (t Timing) withDefaults() Timing {
	d := DefaultTiming()
	for _, f := range []struct {
		set      *time.Duration
		fallback time.Duration
	}{
		{&t.Heartbeat, d.Heartbeat}, {&t.Election, d.Election}, {&t.Lease, d.Lease},
		{&t.Commit, d.Commit}, {&t.DiskStall, d.DiskStall},
	} {
		if *f.set == 0 {
			*f.set = f.fallback
		}
	}
	return t
}

func (c *Config) check() error {
	switch stores := c.Stores; {
	case c.Dir == "" && stores.Log == nil:
		return fmt.Errorf("open raft log: no directory given")
	case c.Dir == "" && c.ID == "":
		return fmt.Errorf("open raft log: stores without a directory need an id")
	case (stores.Log == nil) != (stores.Stable == nil) || (stores.Log == nil) != (stores.Snapshots == nil):
		return fmt.Errorf("open raft log: give all three stores or none")
	case c.Advertise == "" || c.Streams == nil || c.Dial == nil:
		return fmt.Errorf("open raft log: Advertise, Streams and Dial are required")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Timing = c.Timing.withDefaults()
	return nil
}

func (c *Config) raftConfig(id raft.ServerID, log *bridge) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = id
	rc.HeartbeatTimeout = c.Timing.Heartbeat
	rc.ElectionTimeout = c.Timing.Election
	rc.LeaderLeaseTimeout = c.Timing.Lease
	rc.CommitTimeout = c.Timing.Commit
	rc.SnapshotThreshold = snapshotThreshold
	rc.SnapshotInterval = snapshotInterval
	rc.TrailingLogs = cmp.Or(c.trailing, trailingLogs)
	rc.ShutdownOnRemove = false // a holder that is removed stays a node, and may be asked to hold the log again
	rc.NoLegacyTelemetry = true
	rc.Logger = log
	return rc
}
