package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

func TestNodesGetTheLowestFreeSubnet(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b", "c")
	for i, name := range []string{"a", "b", "c"} {
		if got, want := l.s.View().NodeByName(name).Subnet.String(), fmt.Sprintf("10.64.%d.0/24", i); got != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	l.do(NodeLeft{Node: "id-b", At: t0})
	l.do(RemoveNode{Node: "id-b", At: t0})
	l.nodes("d", "e")
	if got := l.s.View().NodeByName("d").Subnet.String(); got != "10.64.1.0/24" {
		t.Errorf("d has %s, want the freed one", got)
	}
	l.fails(job.Conflict, PutNode{Node: aNode("f"), At: t0}) // the /22 has four
}

func TestNextSubnet(t *testing.T) {
	for _, tt := range []struct {
		pool, want string
	}{{"10.0.255.0/24", "10.1.0.0"}, {"255.255.255.0/24", ""}, {"fd00:0:0:ff::/64", "fd00:0:0:100::"}, {"fd00:ffff::/33", "fd00:ffff:8000::"}, {"10.0.0.4/30", "10.0.0.8"}} {
		p := mustPrefix(tt.pool)
		a, ok := nextSubnet(p.Addr(), p.Bits())
		if ok != (tt.want != "") || (ok && a.String() != tt.want) {
			t.Errorf("after %s comes %s %v, want %s", tt.pool, a, ok, tt.want)
		}
	}
}

func TestNodeNamesAndKeysAreNotTakenOver(t *testing.T) {
	l := newLog(t)
	l.fails(job.NotFound, PutNode{Node: aNode("a"), At: t0})
	l.cluster()
	n := aNode("a")
	n.KeyPin = "pin"
	l.do(PutNode{Node: n, At: t0})
	thief := aNode("a")
	thief.ID = "id-thief"
	l.fails(job.Conflict, PutNode{Node: thief, At: t0})
	n.KeyPin = "another"
	l.fails(job.Conflict, PutNode{Node: n, At: t0})
	n.KeyPin = ""
	if r := l.do(PutNode{Node: n, At: t0}); !r.Unchanged {
		t.Error("the same registration again changed the node")
	}
	l.fails(job.Conflict, InitCluster{Cluster: job.Cluster{ID: "c2"}, At: t0})
}

func TestNodeLife(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	stateOf := func() job.NodeState { return l.s.View().Node("id-a").State }
	l.do(NodeDown{Node: "id-a", SuspectAt: t0, DeadAt: t0, At: t0})
	l.do(PutNode{Node: aNode("a"), At: t0})
	if stateOf() != job.NodeDown {
		t.Error("registering must not raise a node that is down")
	}
	l.do(NodeUp{Node: "id-a", At: t0})
	l.do(NodeLeft{Node: "id-a", At: t0})
	l.do(NodeUp{Node: "id-a", At: t0})
	if stateOf() != job.NodeLeft {
		t.Error("late gossip must not raise a node that left")
	}
	l.do(PutNode{Node: aNode("a"), At: t0})
	if stateOf() != job.NodeReady {
		t.Error("starting its agent must bring back a node that left")
	}
	var kinds []string
	for _, e := range l.s.View().Events(EventFilter{Node: "id-a"}) {
		kinds = append(kinds, e.Kind)
	}
	if got, want := strings.Join(kinds, " "), "node-joined node-suspect node-dead node-down node-up node-left node-up"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}

func TestTokens(t *testing.T) {
	l := newLog(t).cluster()
	l.do(PutToken{Token: job.Token{ID: "once", Verifier: []byte{1}, MaxUses: 1, Expires: t0.Add(time.Hour)}, At: t0})
	l.fails(job.Denied, UseToken{ID: "other", At: t0})
	l.fails(job.Denied, UseToken{ID: "once", At: t0.Add(time.Hour)})
	l.do(UseToken{ID: "once", Key: "join-1", At: t0})
	if r := l.do(UseToken{ID: "once", Key: "join-1", At: t0}); !r.Unchanged {
		t.Error("the same join again must not count")
	}
	l.fails(job.Denied, UseToken{ID: "once", Key: "join-2", At: t0})
	l.fails(job.Conflict, PutToken{Token: job.Token{ID: "once", Verifier: []byte{2}}, At: t0})
	l.do(RemoveToken{ID: "once", At: t0})
	l.fails(job.NotFound, RemoveToken{ID: "once", At: t0})
}

func TestSubmitIsIdempotent(t *testing.T) {
	l := newLog(t)
	first := l.do(PutJob{Spec: aSpec("j", 1), Key: "k", At: t0}).Value.(*job.Job)
	l.do(ScaleJob{Job: "j", Replicas: map[string]int{"web": 5}, Key: "s", At: t0})
	again := l.do(PutJob{Spec: aSpec("j", 1), Key: "k", At: t0.Add(time.Hour)})
	if again.Value.(*job.Job).Version != first.Version || l.s.View().Job("j").Version != 2 {
		t.Error("a repeated submit must give the first one's result and change nothing")
	}
	l.do(ScaleJob{Job: "j", Replicas: map[string]int{"web": 5}, Key: "s", At: t0})
	if l.s.View().Job("j").Version != 2 {
		t.Error("a repeated scale made a version")
	}
	l.fails(job.Conflict, StopJob{Job: "j", Key: "k", At: t0})
	l.fails(job.Conflict, PutJob{Spec: aSpec("other", 1), Key: "k", At: t0})
	l.do(RemoveJob{Job: "j", Key: "r", At: t0})
	l.do(RemoveJob{Job: "j", Key: "r", At: t0})
	l.fails(job.NotFound, RemoveJob{Job: "j", At: t0})
}

func TestSameContentMakesNoVersion(t *testing.T) {
	l := newLog(t)
	l.job("j", 2)
	s := aSpec("j", 2)
	s.Source = "# only a comment"
	if r := l.do(PutJob{Spec: s, At: t0}); !r.Unchanged || r.Value.(*job.Job).Version != 1 {
		t.Errorf("same content: %+v", r)
	}
	zero, one := uint64(0), uint64(1)
	l.fails(job.Conflict, PutJob{Spec: aSpec("j", 3), IfVersion: &zero, At: t0})
	if j := l.do(PutJob{Spec: aSpec("j", 3), IfVersion: &one, At: t0}).Value.(*job.Job); j.Version != 2 {
		t.Errorf("version %d, want 2", j.Version)
	}
	l.do(StopJob{Job: "j", At: t0})
	r := l.do(PutJob{Spec: aSpec("j", 3), At: t0})
	if j := r.Value.(*job.Job); r.Unchanged || j.Stopped || j.Version != 2 {
		t.Errorf("a stopped job must be revived at its version: %+v", j)
	}
}

func TestOldVersionsAndTheirServicesGo(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	first := l.job("j", 1)
	d := first.Spec.Services[0].Digest()
	l.place(aTask(first, 1, "t1", "a"))
	for i := range KeepVersions + 3 {
		s := aSpec("j", 1)
		s.Services[0].Image = fmt.Sprint("v", i)
		l.do(PutJob{Spec: s, At: t0})
	}
	vs := l.s.View().JobVersions("j")
	if len(vs) != KeepVersions || vs[len(vs)-1].Version != uint64(KeepVersions)+4 {
		t.Fatalf("%d versions, the last is %d", len(vs), vs[len(vs)-1].Version)
	}
	if l.s.View().Service(d) == nil {
		t.Fatal("a task's service must stay while the task is there")
	}
	l.do(RemoveJob{Job: "j", At: t0})
	l.report("a", "t1", 1, job.Complete)
	if v := l.s.View(); v.Service(d) != nil || v.Task("t1") != nil || v.Status("t1") != nil {
		t.Error("a removed job's task, status and service must go once the task ended")
	}
}

func TestPlacementPremises(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b", "c", "d")
	l.do(SetDrain{Node: "id-b", Drained: true, At: t0})
	l.do(NodeDown{Node: "id-c", At: t0})
	j := l.job("j", 9)
	l.job("halted", 1)
	halted := l.do(StopJob{Job: "halted", At: t0}).Value.(*job.Job)
	with := func(k job.Task, f func(*job.Task)) job.Task { f(&k); return k }
	got := l.place(
		aTask(j, 1, "ok", "a"),
		aTask(j, 2, "drained", "b"),
		aTask(j, 2, "down", "c"),
		aTask(j, 2, "nowhere", "x"),
		aTask(j, 1, "again", "d"),
		aTask(j, 10, "slot", "d"),
		aTask(j, 0, "global", "d"),
		aTask(halted, 1, "halted", "a"),
		with(aTask(j, 2, "job", "a"), func(k *job.Task) { k.Job = "none" }),
		with(aTask(j, 2, "digest", "a"), func(k *job.Task) { k.Digest = "old" }),
		with(aTask(j, 2, "service", "a"), func(k *job.Task) { k.Service = "db" }),
		aTask(j, 2, "2", "a"), aTask(j, 3, "3", "a"), aTask(j, 4, "4", "a"), aTask(j, 5, "full", "a"), // 256 MiB each of 1 GiB
		aTask(j, 5, "ok", "d"),
	)
	want := map[job.TaskID]string{
		"drained": "node b is draining", "down": "node c is down", "nowhere": "node is gone", "again": "slot has task ok already",
		"slot": "no such slot any more", "global": "no such slot any more", "halted": "job is stopped", "job": "job is gone",
		"digest": "service has changed", "service": "job has no such service any more", "full": "node lacks memory",
		"ok": "there is a task with this id",
	}
	for id, w := range want {
		if got[id] != w {
			t.Errorf("%s: %q, want %q", id, got[id], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("refused: %v", got)
	}
	if k := l.s.View().Task("ok"); k.Index != l.index || k.Node != "id-a" {
		t.Errorf("task %+v: its index must be the command's, %d", k, l.index)
	}
	// Room is free again when a task has ended, not when it is only meant to.
	l.plan(Plan{Stop: []TaskStop{{ID: "4", Desired: job.DesiredStop}}})
	if got := l.place(aTask(j, 5, "5", "a")); got["5"] != "node lacks memory" {
		t.Errorf("placed beside a task that still runs: %v", got)
	}
	l.report("a", "4", 1, job.Complete)
	if got := l.place(aTask(j, 5, "5", "a")); len(got) != 0 {
		t.Errorf("refused: %v", got)
	}
	l.fails(job.Invalid, Plan{Base: l.index + 5, At: t0})
}

func TestHostPortPremise(t *testing.T) {
	port := func(ip string, n uint16, proto string) job.Port {
		p := job.Port{Published: n, Target: 80, Protocol: proto}
		if ip != "" {
			p.HostIP = mustPrefix(ip + "/32").Addr()
		}
		return p
	}
	for _, tt := range []struct {
		a, b  job.Port
		clash bool
	}{
		{port("", 80, "tcp"), port("", 80, "tcp"), true},
		{port("", 80, "tcp"), port("", 80, "udp"), false},
		{port("", 80, "tcp"), port("", 81, "tcp"), false},
		{port("192.0.2.1", 80, "tcp"), port("192.0.2.2", 80, "tcp"), false},
		{port("192.0.2.1", 80, "tcp"), port("192.0.2.1", 80, "tcp"), true},
		{port("192.0.2.1", 80, "tcp"), port("", 80, "tcp"), true},
		{port("0.0.0.0", 80, "tcp"), port("192.0.2.1", 80, "tcp"), true},
	} {
		l := newLog(t).cluster().nodes("a")
		for i, p := range []job.Port{tt.a, tt.b} {
			s := aSpec(fmt.Sprint("j", i), 1)
			s.Services[0].Ports = []job.Port{p}
			j := l.do(PutJob{Spec: s, At: t0}).Value.(*job.Job)
			got := l.place(aTask(j, 1, fmt.Sprint("t", i), "a"))
			if want := i == 1 && tt.clash; (len(got) > 0) != want {
				t.Errorf("%v beside %v: %v", tt.b, tt.a, got)
			}
		}
	}
}

func TestATaskIsGivenUpOnlyWithItsReplacement(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b")
	j := l.job("j", 1)
	l.place(aTask(j, 1, "t1", "a"))
	l.report("a", "t1", 1, job.Running)
	lost := []TaskStop{{ID: "t1", Desired: job.DesiredLost, Cause: "node a is down"}}
	if got := l.plan(Plan{Stop: lost}); got["t1"] != "node a is back" {
		t.Errorf("a task on a ready node was given up: %v", got)
	}
	l.do(NodeDown{Node: "id-a", At: t0})
	l.do(SetDrain{Node: "id-b", Drained: true, At: t0})
	r := aTask(j, 1, "t2", "b")
	r.Replaces = "t1"
	if got := l.plan(Plan{Place: []job.Task{r}, Stop: lost}); len(got) != 2 || l.s.View().Task("t1").Desired != job.DesiredRun {
		t.Errorf("given up without replacement: %v", got)
	}
	l.do(SetDrain{Node: "id-b", Drained: false, At: t0})
	if got := l.plan(Plan{Place: []job.Task{r}, Stop: lost}); len(got) != 0 {
		t.Errorf("refused: %v", got)
	}
	v := l.s.View()
	if v.Task("t1").Desired != job.DesiredLost || v.Status("t1").State != job.Lost || v.Task("t2").Desired != job.DesiredRun {
		t.Error("not replaced")
	}
	if res := l.report("a", "t1", 9, job.Running); res.Taken != 0 {
		t.Error("a lost task came back to life by its node's report")
	}
}

func TestReportsThatDoNotCount(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b")
	l.place(aTask(l.job("j", 1), 1, "t1", "a"))
	l.report("a", "t1", 5, job.Running)
	for _, tt := range []struct {
		node, task string
		seq        uint64
		st         job.State
		why        string
	}{
		{"a", "gone", 9, job.Running, NoSuchTask},
		{"b", "t1", 9, job.Complete, "task belongs to another node"},
		{"a", "t1", 5, job.Complete, "older than what is known"},
		{"a", "t1", 6, job.Created, "a state never goes back"},
		{"a", "t1", 6, "dancing", "unknown state"},
	} {
		res := l.report(tt.node, tt.task, tt.seq, tt.st)
		if res.Taken != 0 || len(res.Refused) != 1 || res.Refused[0].Reason != tt.why {
			t.Errorf("%+v: %+v", tt, res)
		}
	}
	l.report("a", "t1", 6, job.Failed)
	if res := l.report("a", "t1", 7, job.Complete); res.Taken != 0 {
		t.Error("a terminal state was changed")
	}
}

func TestDeadTasksOfASlotAreBounded(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	j := l.job("j", 1)
	for i := range 8 {
		id := fmt.Sprint("t", i)
		if got := l.place(aTask(j, 1, id, "a")); len(got) != 0 {
			t.Fatal(got)
		}
		l.report("a", id, 1, job.Failed)
	}
	var ids []string
	for _, k := range l.s.View().TasksOfSlot("j", "web", 1, "") {
		ids = append(ids, string(k.ID)+":"+string(k.Desired))
	}
	if got, want := strings.Join(ids, " "), "t4:stop t5:stop t6:stop t7:run"; got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
	l.do(ScaleJob{Job: "j", Replicas: map[string]int{"web": 0}, At: t0})
	l.plan(Plan{Stop: []TaskStop{{ID: "t7", Desired: job.DesiredStop}}})
	if n := len(l.s.View().Tasks()); n != 0 {
		t.Errorf("%d tasks of a slot that is no more", n)
	}
}

func TestRemoveNodeWantsItEmpty(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	l.place(aTask(l.job("j", 1), 1, "t1", "a"))
	l.fails(job.Conflict, RemoveNode{Node: "id-a", At: t0})
	l.do(NodeDown{Node: "id-a", At: t0})
	l.fails(job.Conflict, RemoveNode{Node: "id-a", At: t0})
	l.do(RemoveNode{Node: "id-a", Force: true, At: t0})
	if v := l.s.View(); v.Node("id-a") != nil || v.Status("t1").State != job.Lost {
		t.Error("not removed with its tasks lost")
	}
}

func TestEventsAreARing(t *testing.T) {
	l := newLog(t).cluster()
	for i := range KeepEvents + 7 {
		l.do(Event{Event: job.Event{Kind: job.EventLeader, Message: fmt.Sprint(i)}, At: t0})
	}
	es := l.s.View().Events(EventFilter{})
	if len(es) != KeepEvents || es[0].Message != "7" || es[0].Time != t0 {
		t.Errorf("%d events, the first is %s", len(es), es[0].Message)
	}
	if got := l.s.View().Events(EventFilter{Since: l.index - 1}); len(got) != 1 || got[0].Index != l.index {
		t.Errorf("since the one before the last: %v", got)
	}
	if got := l.s.View().Events(EventFilter{Limit: 2}); len(got) != 2 || got[1].Index != l.index {
		t.Errorf("the last two: %v", got)
	}
}

func TestKeysAreBounded(t *testing.T) {
	l := newLog(t)
	l.job("j", 1)
	for i := range KeepKeys + 2 {
		l.do(ScaleJob{Job: "j", Replicas: map[string]int{"web": 1}, Key: fmt.Sprint(i), At: t0})
	}
	if n := derive(l.s.View()).keys; n != KeepKeys {
		t.Errorf("%d keys kept", n)
	}
}

func TestTaskByPrefix(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	j := l.job("j", 3)
	l.place(aTask(j, 1, "abc", "a"), aTask(j, 2, "abd", "a"), aTask(j, 3, "abdx", "a"))
	for _, tt := range []struct {
		prefix string
		want   job.TaskID
		kind   job.Kind
	}{{"abc", "abc", ""}, {"abd", "abd", ""}, {"abdx", "abdx", ""}, {"ab", "", job.Conflict}, {"x", "", job.NotFound}, {"", "", job.Invalid}} {
		k, err := l.s.View().TaskByPrefix(tt.prefix)
		if job.KindOf(err) != tt.kind || (err == nil && k.ID != tt.want) {
			t.Errorf("%q: %v %v", tt.prefix, k, err)
		}
	}
}

func TestBadInputIsAnErrorAndTheIndexAdvances(t *testing.T) {
	s := New()
	for i, raw := range [][]byte{nil, {}, {0}, {0, 1, 2}, {kindPutJob}, {kindPutJob, 0xa1}, {kindPlan, 0xff}} {
		if r := s.Apply(uint64(i+1), raw); !errors.Is(r.Err, job.Invalid) {
			t.Errorf("%v: %v", raw, r.Err)
		}
	}
	if s.View().Index() != 7 {
		t.Errorf("index %d", s.View().Index())
	}
	if r := s.Apply(3, nil); r.Err == nil || s.View().Index() != 7 {
		t.Error("an old index was applied")
	}
}

func TestInvalidUTF8InAMessageDoesNotLoseTheReport(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	l.place(aTask(l.job("j", 1), 1, "t1", "a"))
	l.do(Report{Node: "id-a", Statuses: []job.Status{{Task: "t1", Seq: 1, State: job.Failed, Message: strings.Repeat("\xff\xfe", 400)}}, At: t0})
	if st := l.s.View().Status("t1"); st == nil || len(st.Message) > MaxMessage {
		t.Errorf("status %v", st)
	}
	restored := New()
	var b bytes.Buffer
	if err := l.s.View().Persist(&b); err != nil {
		t.Fatal(err)
	}
	if err := restored.Restore(&b); err != nil {
		t.Fatal(err)
	}
}

func TestWaitIndex(t *testing.T) {
	l := newLog(t)
	done := make(chan error, 1)
	go func() { done <- l.s.WaitIndex(t.Context(), 2) }()
	l.cluster()
	l.nodes("a")
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.s.WaitIndex(ctx, 99); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestNamesOfImages(t *testing.T) {
	l := newLog(t).cluster()
	name := func(n, digest string) job.ImageName { return job.ImageName{Name: n, Digest: digest, At: t0} }
	l.do(PutImage{Images: []job.ImageName{name("web:1", "sha256:a"), name("db:1", "sha256:b")}, At: t0})
	if r := l.do(PutImage{Images: []job.ImageName{name("web:1", "sha256:a")}, At: t0}); !r.Unchanged {
		t.Error("the same name and digest again is a change")
	}
	l.do(PutImage{Images: []job.ImageName{name("web:1", "sha256:c")}, At: t0})
	if got := l.s.View().Image("web:1"); got == nil || got.Digest != "sha256:c" {
		t.Errorf("web:1 means %v, want the image loaded last", got)
	}
	l.fails(job.Invalid, PutImage{Images: []job.ImageName{name("", "sha256:a")}, At: t0})
	l.do(RemoveImage{Name: "web:1", At: t0})
	if r := l.do(RemoveImage{Name: "web:1", At: t0}); !r.Unchanged {
		t.Error("removing what is not there is a change")
	}
	var b bytes.Buffer
	if err := l.s.View().Persist(&b); err != nil {
		t.Fatal(err)
	}
	again := New()
	if err := again.Restore(&b); err != nil {
		t.Fatal(err)
	}
	if got := again.View().Images(); len(got) != 1 || got[0].Name != "db:1" {
		t.Errorf("after a restore the names are %v", got)
	}
}

func TestOldestNamesOfImagesGo(t *testing.T) {
	l := newLog(t).cluster()
	var many []job.ImageName
	for i := range KeepImages + 2 {
		many = append(many, job.ImageName{Name: fmt.Sprintf("i%d", i), Digest: "sha256:a", At: t0.Add(time.Duration(i) * time.Second)})
	}
	l.do(PutImage{Images: many, At: t0})
	v := l.s.View()
	if n := len(v.Images()); n != KeepImages || v.Image("i0") != nil || v.Image("i1") != nil || v.Image("i2") == nil {
		t.Errorf("%d names are kept; the two oldest should have gone", n)
	}
}

// TestTheSameOldNamesGo compares with what every build did so far, one name after the other: log-holders must agree.
func TestTheSameOldNamesGo(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var names []*job.ImageName
		for i := range rng.IntN(40) {
			names = append(names, &job.ImageName{Name: fmt.Sprintf("i%02d", i), At: t0.Add(time.Duration(rng.IntN(1+rng.IntN(20))) * time.Second)})
		}
		keep := rng.IntN(40)
		var want []*job.ImageName
		for left := slices.Clone(names); len(left) > keep; {
			oldest := 0
			for i := range left {
				if left[i].At.Before(left[oldest].At) {
					oldest = i
				}
			}
			want = append(want, left[oldest])
			left = slices.Delete(left, oldest, oldest+1)
		}
		if got := tooOld(slices.Clone(names), keep); !slices.Equal(got, want) {
			t.Fatalf("%d names, %d to keep: %v go, want %v", len(names), keep, got, want)
		}
	}
}

// TestManyNamesOfImagesInOneCommand counts what is allocated, which a busy machine does not change: Apply holds up the whole
// cluster.
func TestManyNamesOfImagesInOneCommand(t *testing.T) {
	cost := func(n int) uint64 {
		l := newLog(t).cluster()
		var many []job.ImageName
		for i := range n {
			many = append(many, job.ImageName{Name: fmt.Sprintf("i%d", i), Digest: "sha256:a", At: t0})
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		l.do(PutImage{Images: many, At: t0})
		runtime.ReadMemStats(&after)
		if got := len(l.s.View().Images()); got != min(n, KeepImages) {
			t.Errorf("%d names are kept of %d", got, n)
		}
		return (after.TotalAlloc - before.TotalAlloc) / uint64(n)
	}
	if few, many := cost(KeepImages), cost(3*KeepImages); many > 5*few {
		t.Errorf("%d bytes for each name of %d, %d for each of %d", few, KeepImages, many, 3*KeepImages)
	}
}
