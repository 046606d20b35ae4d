package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// watchDisk takes the node out of the cluster while its disk takes no writes, and for good when the disk failed. Raft
// does not notice a write that hangs: heartbeats have goroutines of their own, so a leader with a hanging disk stays in
// office for ever and nothing is committed (hashicorp/raft issues 503 and 666; measured). Cutting its streams lets the
// others elect one that works, and its clients hear at once that it cannot serve them.
func (l *Log) watchDisk(ctx context.Context) {
	tick := time.NewTicker(max(l.cfg.Timing.DiskStall/6, time.Millisecond))
	defer tick.Stop()
	var wellSince time.Time
	for {
		switch trouble := l.disk.trouble(); {
		case trouble != nil:
			l.leave(trouble)
			wellSince = time.Time{}
		case l.out.Load() != nil:
			if wellSince.IsZero() {
				wellSince = time.Now()
				l.gate.setShut(false)
			}
			l.comeBack(wellSince)
		}
		select {
		case <-ctx.Done():
			return
		case <-l.disk.changed:
		case <-tick.C:
		}
	}
}

// leave cuts the node's streams.
func (l *Log) leave(trouble *DiskError) {
	if before := l.out.Swap(trouble); before == nil || before.Error() != trouble.Error() {
		l.logger.Error("this node is out of the cluster", "node", l.id, "err", trouble)
	}
	l.gate.setShut(true)
	l.publishLeader()
	l.leading.wake() // calls under way give up
}

// comeBack takes part again. The streams are open already; a node that still believes it leads, from the time before,
// is believed only once it kept a quorum for longer than a lease.
func (l *Log) comeBack(wellSince time.Time) {
	if l.raft.State() == raft.Leader && time.Since(wellSince) < 2*l.cfg.Timing.Lease {
		return
	}
	l.out.Store(nil)
	l.logger.Warn("this node is back in the cluster: its disk takes writes again", "node", l.id)
	l.publishLeader()
	l.leading.wake()
}
