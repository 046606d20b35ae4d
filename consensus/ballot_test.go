package consensus

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// A request for a vote outlives streams that are broken or silent, and ends when no stream is left.
func TestCanvassTriesOneStreamAfterTheOther(t *testing.T) {
	broken, hour := errors.New("broken"), time.Hour
	for _, tt := range []struct {
		name    string
		streams []time.Duration // how long an answer takes; negative: it is broken after that time
		took    time.Duration
		err     error
	}{
		{"a good one", []time.Duration{3}, 3, nil},
		{"broken ones", []time.Duration{-1, -1, -1, 2}, 5, nil},
		{"silent ones", []time.Duration{hour, hour, 7}, 2*hedge + 7, nil},
		{"a slow one", []time.Duration{hedge + 9, hour, hour, hour}, hedge + 9, nil},
		{"silent, then broken", []time.Duration{hour, -1, -1, 4}, hedge + 6, nil},
		{"none is good", []time.Duration{-1, -1, -1, -1}, 4, broken},
		{"none answers", []time.Duration{-hour, -hour, -hour, -hour}, 3*hedge + hour, broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tries atomic.Int64
				var resp raft.RequestVoteResponse
				begun := time.Now()
				err := canvass(func(r *raft.RequestVoteResponse) error {
					d := tt.streams[tries.Add(1)-1]
					if d < 0 {
						time.Sleep(-d)
						return broken
					}
					time.Sleep(d)
					r.Granted = true
					return nil
				}, &resp)
				if took := time.Since(begun); took != tt.took || err != tt.err || resp.Granted != (err == nil) {
					t.Errorf("%v, granted %v, after %v; want %v after %v", err, resp.Granted, took, tt.err, tt.took)
				}
				time.Sleep(2 * hour)
			})
		})
	}
}

// Two who ask at the same time do not divide the votes: one leads at once.
func TestTwoWhoStandAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		for _, m := range c.members {
			m.disk.set(func(s *shakyStore) { s.slow = 20 * time.Millisecond })
		}
		l := &ledger{acked: map[uint64]string{}, terms: map[uint64]*member{}}
		for range 20 {
			time.Sleep(3 * time.Second)
			lost := c.leader()
			c.net.cut(lost.addr, true)
			time.Sleep(c.members[0].cfg.Timing.Heartbeat)
			var both sync.WaitGroup
			for _, m := range c.members {
				if m != lost {
					both.Go(m.askForElection)
				}
			}
			both.Wait()
			if _, took := l.succeed(c, lost); took > 250*time.Millisecond {
				t.Errorf("they agreed after %v", took)
			}
			c.net.cut(lost.addr, false)
		}
		c.close()
	})
}
