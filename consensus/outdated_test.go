package consensus

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// A log-holder whose build is older than what lies in the log ends, again and again, and the others go on without it; with
// the right build it has what they have.
func TestAnOlderBuildKeepsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.close()
		old := c.members[2]
		c.crash(old)
		old.old = true
		c.net.cut(old.addr, false)
		c.start(old)
		c.agree(c.propose(c.leader(old), "what every build knows"))

		newer := state.InitCluster{Cluster: job.Cluster{ID: "c", Pool: netip.MustParsePrefix("10.0.0.0/8"), Rules: state.Rules}, At: time.Unix(1, 0)}
		r, err := c.leader(old).Propose(c.ctx(), newer)
		c.must(errors.Join(err, r.Err))
		ends := func(how string) {
			t.Helper()
			var o *state.OutdatedError
			if err := <-old.done; !errors.As(err, &o) {
				t.Errorf("%s: it ended with %v", how, err)
			}
			if old.store.View().Cluster() != nil || old.IsLeader() {
				t.Errorf("%s: it made something of what it does not know, or leads", how)
			}
			old.stop()
			old.stop = nil
		}
		ends("at work")
		index := c.propose(c.leader(old), "while it is out")
		c.start(old)
		ends("started again")
		if err := old.store.Outdated(); err == nil {
			t.Error("its state knows of nothing")
		}
		old.old = false
		c.start(old)
		c.agree(index)

		c.must(old.raft.Snapshot().Error())
		c.crash(old)
		old.old = true
		var o *state.OutdatedError
		if _, err := c.open(old); !errors.As(err, &o) {
			t.Errorf("with a newer snapshot it begins with %v", err)
		}
		c.propose(c.leader(old), "still without it")
	})
}
