package api

import (
	"context"
	"errors"
	"testing"
	"time"

	"shoal/consensus/job"
)

func TestALocalReadAsksNoLeader(t *testing.T) {
	t.Parallel()
	leader := newMachine(t, "L", &script{leader: "self", state: true})
	holder := newMachine(t, "H", &script{state: true})
	for _, c := range []struct {
		name string
		b    *script
		from *machine // nil: here
	}{
		{"a follower", &script{leader: leader.peers, state: true}, nil},
		{"the leader itself", &script{leader: "self", state: true}, nil},
		{"no log here", &script{leader: leader.peers, holder: holder.peers}, holder},
	} {
		m := newMachine(t, "A", c.b)
		got, err := m.client(Reader).JobLocal(context.Background(), "x")
		if err != nil || !got.Stale {
			t.Errorf("%s: %v, stale %v", c.name, err, got.Stale)
		}
		here, there := c.b.taken(), holder.taken()
		if (c.from == nil) != (here != "") || (c.from != nil) != (there != "") || leader.taken() != "" {
			t.Errorf("%s: answered here: %q, there: %q", c.name, here, there)
		}
	}
}

// That a node which nobody confirms does not know a job does not mean that there is none: it may have missed its submit.
func TestWithoutALeaderNothingIsSaidToBeMissing(t *testing.T) {
	t.Parallel()
	none := job.Errorf(job.NotFound, "job x: there is none")
	holder := newMachine(t, "H", &script{state: true, fail: none})
	for name, b := range map[string]*script{
		"no leader":                      {state: true, fail: none},
		"a leader that cannot confirm":   {leader: "self", state: true, stale: job.Unavailable, fail: none},
		"no log here, and no leader":     {holder: holder.peers},
		"the leader refuses connections": {leader: "127.0.0.1:1", state: true, fail: none},
	} {
		m := newMachine(t, "A", b)
		if _, err := m.client(Reader).Job(context.Background(), "x", false); !errors.Is(err, job.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := m.client(Reader).JobLocal(context.Background(), "x"); !errors.Is(err, job.NotFound) {
			t.Errorf("%s, for a local read: %v", name, err)
		}
	}
	m := newMachine(t, "A", &script{leader: "self", state: true, fail: none})
	if _, err := m.client(Reader).Job(context.Background(), "x", false); !errors.Is(err, job.NotFound) {
		t.Errorf("confirmed: %v", err)
	}
}

func TestStateHashIsOfTheAskedNode(t *testing.T) {
	t.Parallel()
	b := &script{leader: "192.0.2.1:1", state: true}
	m := newMachine(t, "A", b)
	got, err := m.client(Admin).StateHash(context.Background(), 7, time.Hour)
	if err != nil || got.Index != 7 || b.taken() != "state hash 7 10s" {
		t.Errorf("%+v: %v", got, err)
	}
	if _, err := m.client(Operator).StateHash(context.Background(), 7, 0); !errors.Is(err, job.Denied) {
		t.Errorf("for an operator: %v", err)
	}
}
