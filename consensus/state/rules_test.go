package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

// upgraded registers nodes with what this build says of itself.
func (l *log) upgraded(names ...string) *log {
	l.t.Helper()
	for _, name := range names {
		n := aNode(name)
		n.Rules = Rules
		l.do(PutNode{Node: n, At: t0})
	}
	return l
}

// A cluster that is upgraded node by node.
func scriptedRules(l *log) {
	l.cluster().nodes("a", "b", "c")
	l.upgraded("a", "b")
	l.do(NodeDown{Node: "id-b", At: t0.Add(time.Second)})
	l.fails(job.Conflict, RaiseRules{To: rulesWaiting, At: t0})
	l.do(NodeLeft{Node: "id-c", At: t0.Add(time.Second)})
	l.do(RaiseRules{To: rulesWaiting, At: t0.Add(2 * time.Second)})
}

func TestRulesHoldOnceAllNodesKnowThem(t *testing.T) {
	l := newLog(t)
	l.fails(job.NotFound, RaiseRules{To: rulesWaiting, At: t0})
	l.cluster().nodes("a", "b", "c")
	behind := func(want ...string) {
		t.Helper()
		if got := l.s.View().Behind(rulesWaiting); !slices.Equal(got, want) {
			t.Errorf("behind: %v, want %v", got, want)
		}
		if len(want) == 0 {
			return
		}
		if r := l.try(RaiseRules{To: rulesWaiting, At: t0}); job.KindOf(r.Err) != job.Conflict || !strings.Contains(r.Err.Error(), "node "+want[0]+" ") {
			t.Errorf("raised without %v: %v", want, r.Err)
		}
		if l.s.View().Rules() != 0 {
			t.Errorf("level %d", l.s.View().Rules())
		}
	}
	behind("a", "b", "c")
	l.upgraded("b")
	behind("a", "c")
	l.do(NodeDown{Node: "id-c", At: t0.Add(time.Second)}) // it may come back with its old build, and with its old copy of the log
	behind("a", "c")
	l.upgraded("a")
	behind("c")
	l.do(NodeLeft{Node: "id-c", At: t0.Add(time.Second)})
	behind()
	l.do(RaiseRules{To: rulesWaiting, At: t0})
	if l.s.View().Rules() != rulesWaiting {
		t.Errorf("level %d", l.s.View().Rules())
	}
	if r := l.do(RaiseRules{To: rulesWaiting, At: t0}); !r.Unchanged {
		t.Error("raised twice")
	}
	for _, old := range []string{"c", "new"} {
		if r := l.try(PutNode{Node: aNode(old), At: t0}); job.KindOf(r.Err) != job.Conflict || !strings.Contains(r.Err.Error(), "install the version") {
			t.Errorf("an older build registers %s: %v", old, r.Err)
		}
	}
	l.upgraded("c")
}

// TestRulesAreRaisedOneByOneOrAtOnce goes the ways on which a cluster may come to this build.
func TestRulesAreRaisedOneByOneOrAtOnce(t *testing.T) {
	for from := range Rules {
		l := newLog(t).cluster().upgraded("a", "b").raise(from).raise(Rules)
		if got := l.s.View().Rules(); got != Rules {
			t.Errorf("from %d it came to level %d", from, got)
		}
		l.do(RaiseRules{To: from, At: t0})
		if got := l.s.View().Rules(); got != Rules {
			t.Errorf("back to %d: level %d", from, got)
		}
	}
}

// raise takes a cluster of which all nodes are upgraded to a level.
func (l *log) raise(to int) *log {
	l.t.Helper()
	if to > 0 {
		l.do(RaiseRules{To: to, At: t0})
	}
	return l
}

// What an older build may meet in the log of a newer one.
func TestAnOlderBuildStops(t *testing.T) {
	l := newLog(t)
	scriptedRules(l)
	view := l.s.View()
	for name, raw := range map[string][]byte{
		"rules": l.raw[len(l.raw)-1],
		"kind":  {250, 0xa0},
	} {
		s := NewKnowing(rulesWaiting - 1)
		for i, raw := range l.raw[:len(l.raw)-1] {
			s.Apply(uint64(i+1), raw)
		}
		stops(t, name, s, func() error { return s.Apply(uint64(len(l.raw)), raw).Err })
	}
	founded := encoded(t, InitCluster{Cluster: job.Cluster{ID: "c9", Pool: view.Cluster().Pool, Rules: rulesWaiting}, At: t0})
	s := NewKnowing(rulesWaiting - 1)
	stops(t, "founded", s, func() error { return s.Apply(1, founded).Err })
	snap := persist(t, view)
	newTable := append(slices.Clone(snap[:len(snap)-5-sha256.Size]), 200, 0, 0, 0, 0, recordEnd)
	newTable = binary.BigEndian.AppendUint32(newTable, binary.BigEndian.Uint32(snap[len(snap)-4-sha256.Size:])+1)
	sum := sha256.Sum256(newTable)
	newFormat := slices.Clone(snap)
	binary.BigEndian.PutUint32(newFormat[len(snapshotMagic):], snapshotVersion+1)
	for name, b := range map[string][]byte{"snapshot": snap, "table": append(newTable, sum[:]...), "format": newFormat} {
		s := NewKnowing(rulesWaiting - 1)
		stops(t, name, s, func() error { return s.Restore(bytes.NewReader(b)) })
	}
}

// stops checks that a store that met something takes no more, and is as it was.
func stops(t *testing.T, name string, s *Store, meet func() error) {
	t.Helper()
	if err := s.Outdated(); err != nil {
		t.Fatalf("%s: before: %v", name, err)
	}
	hash, index := s.View().Hash(), s.View().Index()
	var old *OutdatedError
	if err := meet(); !errors.As(err, &old) || job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "install the version") {
		t.Errorf("%s: %v", name, err)
	}
	if r := s.Apply(1000, encoded(t, SetDrain{Node: "id-a", Drained: true, At: t0})); !errors.As(r.Err, &old) {
		t.Errorf("%s: goes on: %v", name, r.Err)
	}
	if s.Outdated() == nil || s.View().Hash() != hash || s.View().Index() != index {
		t.Errorf("%s: outdated %v, at index %d, was %d", name, s.Outdated(), s.View().Index(), index)
	}
}

func encoded(t *testing.T, c Command) []byte {
	t.Helper()
	raw, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func persist(t *testing.T, v *View) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := v.Persist(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
