package state

import (
	"bytes"
	"net/netip"
	"testing"

	"shoal/consensus/job"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestSubscriptionBeginsAfterItsView(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	v, sub := l.s.Subscribe(10)
	defer sub.Close()
	l.nodes("b")
	l.do(SetDrain{Node: "id-a", Drained: false, At: t0}) // changes nothing, but its index is told
	l.do(SetDrain{Node: "id-a", Drained: true, At: t0})
	if v.Index() != 2 || v.NodeByName("b") != nil {
		t.Error("the view moved")
	}
	if b := <-sub.C; b.Index != 3 || b.Changes[0].Before != nil || b.Changes[0].After.(*job.Node).Name != "b" {
		t.Errorf("first batch: %+v", b)
	}
	if b := <-sub.C; b.Index != 4 || len(b.Changes) != 0 {
		t.Errorf("batch of a command that changed nothing: %+v", b)
	}
	b := <-sub.C
	was, is := b.Changes[0].Before.(*job.Node), b.Changes[0].After.(*job.Node)
	if b.Index != 5 || was.Drained || !is.Drained {
		t.Errorf("last batch: %+v", b)
	}
	if was != v.Node("id-a") {
		t.Error("before must be what the view shows")
	}
}

func TestASlowSubscriberIsEndedAndHoldsNobodyUp(t *testing.T) {
	l := newLog(t).cluster()
	_, slow := l.s.Subscribe(1)
	_, quick := l.s.Subscribe(10)
	defer quick.Close()
	l.nodes("a", "b", "c")
	n := 0
	for range slow.C {
		n++
	}
	if n != 1 || slow.Err() != ErrSlow {
		t.Errorf("%d batches, then %v", n, slow.Err())
	}
	if len(quick.C) != 3 || quick.Err() != nil {
		t.Errorf("the quick one has %d, %v", len(quick.C), quick.Err())
	}
	slow.Close()
}

func TestCloseEndsASubscription(t *testing.T) {
	l := newLog(t).cluster()
	_, sub := l.s.Subscribe(1)
	sub.Close()
	sub.Close()
	if _, ok := <-sub.C; ok || sub.Err() != ErrClosed {
		t.Error(sub.Err())
	}
	l.nodes("a")
}

func TestRestoreEndsSubscriptions(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	var b bytes.Buffer
	if err := l.s.View().Persist(&b); err != nil {
		t.Fatal(err)
	}
	_, sub := l.s.Subscribe(1)
	if err := l.s.Restore(&b); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-sub.C; ok || sub.Err() != ErrSlow {
		t.Error(sub.Err())
	}
}
