package state

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"shoal/consensus/job"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

// log applies commands to a store, one index each, as raft would.
type log struct {
	t     testing.TB
	s     *Store
	index uint64
	raw   [][]byte
}

func newLog(t testing.TB) *log { return &log{t: t, s: New()} }

func (l *log) try(c Command) Result {
	l.t.Helper()
	raw, err := Encode(c)
	if err != nil {
		l.t.Fatal(err)
	}
	l.index++
	l.raw = append(l.raw, raw)
	return l.s.Apply(l.index, raw)
}

func (l *log) do(c Command) Result {
	l.t.Helper()
	r := l.try(c)
	if r.Err != nil {
		l.t.Fatalf("%T: %v", c, r.Err)
	}
	return r
}

func (l *log) fails(kind job.Kind, c Command) {
	l.t.Helper()
	before := l.s.View().Hash()
	if r := l.try(c); job.KindOf(r.Err) != kind {
		l.t.Errorf("%T: error %v, want kind %s", c, r.Err, kind)
	}
	if l.s.View().Hash() != before {
		l.t.Errorf("%T failed and changed the state", c)
	}
}

func (l *log) cluster() *log {
	l.t.Helper()
	l.do(InitCluster{Cluster: job.Cluster{ID: "c1", Created: t0, Pool: netip.MustParsePrefix("10.64.0.0/22"), SubnetBits: 24, CACert: []byte("pem")}, At: t0})
	return l
}

func aNode(name string) job.Node {
	return job.Node{
		ID: job.NodeID("id-" + name), Name: name, Addr: netip.MustParseAddrPort("192.0.2.1:6174"),
		Capacity: job.Resources{NanoCPUs: 4e9, MemoryBytes: 1 << 30, PIDs: 1000},
	}
}

func (l *log) nodes(names ...string) *log {
	l.t.Helper()
	for _, n := range names {
		l.do(PutNode{Node: aNode(n), At: t0})
	}
	return l
}

func aSpec(name string, replicas int) job.Spec {
	return job.Spec{Name: name, Services: []job.Service{{Name: "web", Replicas: replicas, Image: "nginx", Limits: job.Resources{MemoryBytes: 256 << 20}}}}
}

func (l *log) job(name string, replicas int) *job.Job {
	l.t.Helper()
	return l.do(PutJob{Spec: aSpec(name, replicas), At: t0}).Value.(*job.Job)
}

func aTask(j *job.Job, slot int, id, node string) job.Task {
	s := &j.Spec.Services[0]
	return job.Task{
		ID: job.TaskID(id), Job: j.Name, Service: s.Name, Digest: s.Digest(), Slot: slot,
		Node: job.NodeID("id-" + node), Desired: job.DesiredRun, Placed: t0, Cause: "submitted",
	}
}

// plan applies a plan and gives the reasons of refusals by task.
func (l *log) plan(p Plan) map[job.TaskID]string {
	l.t.Helper()
	p.Base, p.At = l.index, t0
	out := map[job.TaskID]string{}
	for _, r := range l.do(p).Value.(*PlanResult).Refused {
		out[r.Task] = r.Reason
	}
	return out
}

func (l *log) place(ts ...job.Task) map[job.TaskID]string {
	l.t.Helper()
	return l.plan(Plan{Place: ts})
}

func (l *log) report(node, id string, seq uint64, st job.State) *ReportResult {
	l.t.Helper()
	return l.do(Report{Node: job.NodeID("id-" + node), At: t0, Statuses: []job.Status{{
		Task: job.TaskID(id), Seq: seq, State: st, At: map[job.State]time.Time{st: t0},
	}}}).Value.(*ReportResult)
}

// scripted is a log with every kind of command in it; it is the golden log, so it is never changed (add a new one).
func scripted(l *log) {
	l.cluster()
	for _, n := range []string{"a", "b", "c"} {
		nd := aNode(n)
		nd.Labels, nd.KeyPin, nd.Version = map[string]string{"zone": n, "disk": "ssd"}, "pin-"+n, "1.0"
		l.do(PutNode{Node: nd, At: t0})
	}
	l.try(PutNode{Node: job.Node{ID: "id-x", Name: "a"}, At: t0})
	l.do(SetNodeLabels{Node: "id-a", Set: map[string]string{"zone": "z"}, Remove: []string{"disk"}, At: t0})
	l.do(SetGossipKeys{Keys: [][]byte{{1, 2}, {3}}, At: t0})
	l.do(PutToken{Token: job.Token{ID: "t1", Verifier: []byte{9}, Created: t0, Expires: t0.Add(time.Hour), MaxUses: 1}, At: t0})
	l.do(PutToken{Token: job.Token{ID: "t2", Verifier: []byte{8}, Created: t0}, At: t0})
	l.do(UseToken{ID: "t1", Node: "id-a", Key: "u1", At: t0})
	l.try(UseToken{ID: "t1", Node: "id-b", Key: "u2", At: t0})
	l.do(RemoveToken{ID: "t2", At: t0})
	one := uint64(1)
	spec := aSpec("shop", 3)
	spec.Source = "services: {}"
	spec.Volumes = []job.Volume{{Name: "shop_data"}}
	spec.Services = append(spec.Services, job.Service{
		Name: "agent", Mode: job.Global, Image: "agent", Env: []string{"A=1"},
		Ports:  []job.Port{{HostIP: netip.MustParseAddr("192.0.2.9"), Published: 9000, Target: 90, Protocol: "tcp"}},
		Health: &job.Health{Test: []string{"CMD", "true"}, Interval: time.Second},
	})
	j := l.do(PutJob{Spec: spec, Key: "k1", At: t0}).Value.(*job.Job)
	l.do(PutJob{Spec: spec, Key: "k1", At: t0.Add(time.Second)})
	l.do(PutJob{Spec: spec, Key: "k2", IfVersion: &one, At: t0})
	web := func(slot int, id, node string) job.Task {
		k := aTask(j, slot, id, node)
		k.Service, k.Digest = "web", j.Spec.Service("web").Digest()
		return k
	}
	agent := web(0, "agenta", "a")
	agent.Service, agent.Digest = "agent", j.Spec.Service("agent").Digest()
	l.plan(Plan{
		Place: []job.Task{web(1, "web1", "a"), web(2, "web2", "b"), web(3, "web3", "b"), web(3, "twice", "a"), agent},
		Block: []job.Blocked{{Job: "shop", Service: "agent", Slots: 2, Reason: "no node fits: 2 lack memory"}},
	})
	code := 137
	l.do(Report{Node: "id-a", At: t0, Statuses: []job.Status{
		{Task: "web1", Seq: 1, State: job.Running, Health: job.Healthy, Address: netip.MustParseAddr("10.64.0.2"), At: map[job.State]time.Time{job.Created: t0, job.Running: t0}},
		{Task: "agenta", Seq: 1, State: job.Failed, ExitCode: &code, OOM: true, Message: "out of memory"},
		{Task: "web2", Seq: 1, State: job.Running},
	}})
	l.report("b", "web2", 1, job.Running)
	l.do(NodeDown{Node: "id-b", Reason: "no answer", SuspectAt: t0.Add(time.Second), DeadAt: t0.Add(2 * time.Second), At: t0.Add(3 * time.Second)})
	moved := web(2, "web2b", "c")
	moved.Replaces, moved.Cause = "web2", "node b is down"
	l.plan(Plan{Place: []job.Task{moved}, Stop: []TaskStop{{ID: "web2", Desired: job.DesiredLost, Cause: "node b is down"}}, Unblock: []ServiceRef{{Job: "shop", Service: "agent"}}})
	l.do(NodeUp{Node: "id-b", At: t0.Add(9 * time.Second)})
	l.do(SetDrain{Node: "id-c", Drained: true, At: t0})
	l.do(ScaleJob{Job: "shop", Replicas: map[string]int{"web": 1}, Key: "k3", At: t0})
	l.plan(Plan{Stop: []TaskStop{{ID: "web2b", Desired: job.DesiredStop, Cause: "scaled to 1"}, {ID: "web3", Desired: job.DesiredStop}}})
	l.report("c", "web2b", 4, job.Complete)
	l.job("other", 1)
	l.do(StopJob{Job: "other", At: t0})
	l.do(RemoveJob{Job: "other", Key: "k4", At: t0})
	l.job("kept", 2)
	l.do(StopJob{Job: "kept", At: t0})
	l.do(NodeLeft{Node: "id-c", Reason: "asked to", At: t0})
	l.do(RemoveNode{Node: "id-c", At: t0})
	l.do(Event{Event: job.Event{Kind: job.EventLeader, Node: "id-a", Message: "term 3"}, At: t0})
	l.try(ScaleJob{Job: "nobody", Replicas: map[string]int{"x": 1}, At: t0})
}

// scripted2 is what log-v1 has not: updates and their ends. It is the golden log 2, so it is never changed.
func scripted2(l *log) {
	l.cluster().nodes("a", "b")
	spec := func(img string) job.Spec {
		s := aSpec("shop", 2)
		s.Services[0].Image, s.Services[0].Limits = img, job.Resources{}
		s.Services[0].Update = &job.Update{Parallelism: 2, Delay: time.Second, Order: job.StartFirst, Monitor: time.Second, MaxFailureRatio: 0.25, Failure: job.FailRollback}
		s.Services[0].Rollback = &job.Update{Parallelism: job.AllAtOnce, Failure: job.FailContinue}
		return s
	}
	task := func(j *job.Job, slot int, id, node, replaces string) job.Task {
		k := aTask(j, slot, id, node)
		k.Replaces = job.TaskID(replaces)
		return k
	}
	j := l.do(PutJob{Spec: spec("one"), At: t0}).Value.(*job.Job)
	l.place(aTask(j, 1, "old1", "a"), aTask(j, 2, "old2", "b"))
	l.report("a", "old1", 1, job.Running)
	l.report("b", "old2", 1, job.Running)
	j = l.do(PutJob{Spec: spec("two"), Key: "k1", At: t0.Add(time.Second)}).Value.(*job.Job)
	l.place(task(j, 1, "new1", "b", "old1"), task(j, 2, "new2", "a", "old2"))
	l.report("b", "new1", 1, job.Running)
	l.plan(Plan{Stop: []TaskStop{{ID: "old1", Desired: job.DesiredStop, Cause: "updated", For: "new1"}, {ID: "old2", Desired: job.DesiredStop, For: "new2"}}})
	l.report("a", "old1", 2, job.Complete)
	l.report("a", "new2", 1, job.Failed)
	l.plan(Plan{Rollouts: []RolloutStep{{Job: "shop", Service: "web", Version: 2, Rollback: true, Reason: "web.2 failed: exit code 1"}}})
	j = l.s.View().Job("shop")
	l.place(task(j, 1, "back1", "a", "new1"))
	l.report("a", "back1", 1, job.Running)
	l.plan(Plan{Stop: []TaskStop{{ID: "new1", Desired: job.DesiredStop, For: "back1"}}})
	l.plan(Plan{Rollouts: []RolloutStep{{Job: "shop", Service: "web", Version: 3, Status: job.RolloutComplete}}})
	l.do(PutJob{Spec: spec("three"), At: t0})
	l.plan(Plan{Rollouts: []RolloutStep{{Job: "shop", Service: "web", Version: 4, Status: job.RolloutPaused, Reason: "web.1 is unhealthy"}}})
	l.do(PutJob{Spec: spec("three"), At: t0.Add(time.Minute)})
	l.do(PutJob{Spec: spec("two"), RollbackTo: 2, At: t0})
	l.do(RestartJob{Job: "shop", Services: []string{"web"}, Key: "k2", At: t0})
	l.do(StopJob{Job: "shop", At: t0})
	l.do(StartJob{Job: "shop", Key: "k3", At: t0})
	l.do(PutJob{Spec: aSpec("other", 1), At: t0})
	l.do(RestartJob{Job: "other", At: t0})
	l.do(RemoveJob{Job: "other", At: t0})
}

// randomCommand makes a command that often makes sense for the state as it is.
func randomCommand(r *rand.Rand, v *View, n int) Command {
	at := t0.Add(time.Duration(n) * time.Second)
	name := fmt.Sprintf("j%d", r.IntN(4))
	nd := string(rune('a' + r.IntN(5)))
	id := job.NodeID("id-" + nd)
	key := ""
	if r.IntN(3) == 0 {
		key = fmt.Sprintf("k%d", r.IntN(50))
	}
	switch r.IntN(26) {
	case 23, 24, 25:
		return randomChange(r, v, name, key, at)
	case 20:
		return RestartJob{Job: name, Key: key, At: at}
	case 21:
		return StartJob{Job: name, At: at}
	case 22:
		s := aSpec(name, r.IntN(5))
		s.Services[0].Update = &job.Update{Parallelism: r.IntN(3)}
		return PutJob{Spec: s, RollbackTo: r.Uint64N(3), Key: key, At: at}
	case 0:
		x := aNode(nd)
		x.Version = fmt.Sprint(r.IntN(3))
		x.Rules = Rules - r.IntN(8)/7
		if r.IntN(4) == 0 {
			return RaiseRules{To: 1 + r.IntN(Rules), At: at}
		}
		return PutNode{Node: x, At: at}
	case 1:
		return SetDrain{Node: id, Drained: r.IntN(2) == 0, At: at}
	case 2:
		return NodeDown{Node: id, Reason: "test", At: at}
	case 3:
		return NodeUp{Node: id, At: at}
	case 4:
		if r.IntN(3) == 0 {
			return RemoveNode{Node: id, Force: r.IntN(2) == 0, At: at}
		}
		return NodeLeft{Node: id, At: at}
	case 5, 6:
		s := aSpec(name, r.IntN(5))
		s.Services[0].Image = fmt.Sprintf("i%d", r.IntN(3))
		if r.IntN(3) == 0 {
			s.Services = append(s.Services, job.Service{Name: "glob", Mode: job.Global, Ports: []job.Port{{Published: 80, Protocol: "tcp"}}})
		}
		return PutJob{Spec: s, Key: key, At: at}
	case 7:
		return ScaleJob{Job: name, Replicas: map[string]int{"web": r.IntN(5)}, Key: key, At: at}
	case 8:
		return StopJob{Job: name, At: at}
	case 9:
		return RemoveJob{Job: name, Key: key, At: at}
	case 10:
		return SetNodeLabels{Node: id, Set: map[string]string{"x": fmt.Sprint(r.IntN(2))}, At: at}
	case 11, 12, 13, 14, 15:
		return randomPlan(r, v, at, n)
	}
	return randomReport(r, v, at)
}

func randomPlan(r *rand.Rand, v *View, at time.Time, n int) Command {
	p := Plan{Base: v.Index(), At: at}
	for _, j := range v.Jobs() {
		for i := range j.Spec.Services {
			s := &j.Spec.Services[i]
			k := job.Task{
				ID: job.TaskID(fmt.Sprintf("t%d-%s-%d", n, j.Name, i)), Job: j.Name, Service: s.Name, Digest: s.Digest(),
				Slot: 1 + r.IntN(5), Node: job.NodeID("id-" + string(rune('a'+r.IntN(5)))), Desired: job.DesiredRun, Placed: at,
			}
			if s.Mode == job.Global {
				k.Slot = 0
			}
			for _, o := range v.TasksOfSlot(k.Job, k.Service, k.Slot, k.Node) {
				if r.IntN(2) == 0 {
					k.Replaces = o.ID // now and then a hand-over
				}
			}
			p.Place = append(p.Place, k)
		}
		for _, ro := range v.Rollouts(j.Name) {
			st := RolloutStep{Job: ro.Job, Service: ro.Service, Version: ro.Version, Reason: "test"}
			switch r.IntN(6) {
			case 0:
				st.Status = job.RolloutComplete
			case 1:
				st.Status = job.RolloutPaused
			case 2:
				st.Rollback = true
			default:
				continue
			}
			p.Rollouts = append(p.Rollouts, st)
		}
		p.Block = append(p.Block, job.Blocked{Job: j.Name, Service: "web", Slots: r.IntN(3), Reason: fmt.Sprint(r.IntN(2))})
	}
	ts := v.Tasks()
	for range min(len(ts), 3) {
		k := ts[r.IntN(len(ts))]
		d := job.DesiredStop
		if r.IntN(2) == 0 {
			d = job.DesiredLost
			if len(p.Place) > 0 {
				p.Place[0].Replaces = k.ID
			}
		}
		st := TaskStop{ID: k.ID, Desired: d, Cause: "test"}
		if r.IntN(4) == 0 {
			st.For = ts[r.IntN(len(ts))].ID
		}
		p.Stop = append(p.Stop, st)
	}
	changePlan(r, v, &p)
	return p
}

func randomReport(r *rand.Rand, v *View, at time.Time) Command {
	states := []job.State{job.Pulling, job.Created, job.Running, job.Running, job.Stopping, job.Complete, job.Failed, "odd"}
	ts := v.Tasks()
	if len(ts) == 0 {
		return Event{Event: job.Event{Kind: job.EventLeader}, At: at}
	}
	rep := Report{Node: ts[r.IntN(len(ts))].Node, At: at}
	for _, k := range ts {
		if k.Node == rep.Node && r.IntN(2) == 0 {
			rep.Statuses = append(rep.Statuses, job.Status{Task: k.ID, Seq: r.Uint64N(20), State: states[r.IntN(len(states))], At: map[job.State]time.Time{job.Placed: at}, Untuned: k.Tuned * r.Uint64N(2)})
		}
	}
	return rep
}
