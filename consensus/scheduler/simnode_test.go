package scheduler

import (
	"fmt"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// simNode is a modelled machine with its agent.
type simNode struct {
	s          *simulation
	id         job.NodeID
	on         bool // has power
	linked     bool // the others reach it, and it them
	gone       bool // removed
	boot       int  // counts power-ons: what was scheduled before means nothing
	lostAt     time.Time
	backAt     time.Time
	verdict    time.Duration // how long it takes to be called down
	seq        uint64
	containers map[job.TaskID]*simContainer
	unsent     map[job.TaskID]job.Status
}

// simContainer is one task's container; live from the first instruction to the last.
type simContainer struct {
	task     job.Task
	starting bool
	live     bool
	stopping bool
	ended    bool   // for good
	made     bool   // prepared, while it waits for another's end
	tuned    uint64 // the change in place that it has taken over
	failures int
	lease    time.Time // it dies then; zero: never
}

func (n *simNode) reached() bool { return n.on && n.linked }

func (s *simulation) addNode(name string) *simNode {
	id := s.node(name, memory(512+256*s.r.Int64N(8)), label("zone", string(rune('x'+s.r.IntN(2)))))
	n := &simNode{
		s: s, id: id, on: true, linked: true, verdict: s.between(time.Second, 4*time.Second),
		containers: map[job.TaskID]*simContainer{}, unsent: map[job.TaskID]job.Status{},
	}
	s.nodes[id] = n
	n.beat(n.boot)
	return n
}

// beat is the feed's heartbeat: what the node is to run, and the leader's word that leases hang on, sent a moment ago.
func (n *simNode) beat(boot int) {
	if n.boot != boot || n.gone {
		return
	}
	s := n.s
	if n.reached() && s.leads {
		sent := s.now
		tasks := s.store.View().TasksOfNode(n.id)
		grant := s.store.View().Node(n.id) != nil && s.store.View().Node(n.id).State == job.NodeReady
		if grant {
			s.granted[n.id] = sent
		}
		s.after(s.between(time.Millisecond, 80*time.Millisecond), func() {
			if n.boot == boot && n.reached() {
				n.reconcile(tasks, sent, grant)
				n.send()
			}
		})
	}
	s.after(simHeartbeat, func() { n.beat(boot) })
}

// reconcile starts and stops containers as the cluster wants.
func (n *simNode) reconcile(tasks []*job.Task, sent time.Time, grant bool) {
	wanted := map[job.TaskID]bool{}
	for _, k := range tasks {
		wanted[k.ID] = true
		c := n.containers[k.ID]
		if c == nil {
			c = &simContainer{task: *k}
			n.containers[k.ID] = c
			if st := n.s.store.View().Status(k.ID); st != nil && st.State.Terminal() {
				c.ended = true
			}
		}
		c.task = *k
		if c.live && k.Tuned > c.tuned {
			c.tuned = k.Tuned
			n.report(c, job.Running)
		}
		if grant && k.Lease > 0 {
			c.lease = sent.Add(k.Lease)
			n.watchLease(c)
		}
		switch {
		case k.Desired == job.DesiredRun && k.Wait != job.WaitNone:
			n.prepare(c)
		case k.Desired == job.DesiredRun && !c.live && !c.starting && !c.ended && (k.Lease == 0 || grant):
			n.start(c)
		case k.Desired != job.DesiredRun:
			n.stop(c)
		}
	}
	for id, c := range n.containers {
		if !wanted[id] {
			n.stop(c)
		}
	}
}

func (n *simNode) watchLease(c *simContainer) {
	boot, until := n.boot, c.lease
	n.s.after(until.Sub(n.s.now), func() {
		if n.boot == boot && c.lease.Equal(until) && (c.live || c.starting) {
			n.s.counts["leases ended"]++
			n.die(c)
			c.starting = false // whoever waits to start it finds no lease
		}
	})
}

// prepare makes what is to start after another's end.
func (n *simNode) prepare(c *simContainer) {
	if c.made || c.ended || c.stopping {
		return
	}
	c.made = true
	boot := n.boot
	n.s.after(n.s.between(10*time.Millisecond, 3*time.Second), func() {
		if n.boot != boot {
			c.made = false
			return
		}
		if !c.starting && !c.live && !c.ended && !c.stopping {
			n.report(c, job.Created)
		}
	})
}

func (n *simNode) start(c *simContainer) {
	s, boot := n.s, n.boot
	c.starting = true
	d := s.between(10*time.Millisecond, 400*time.Millisecond)
	if s.r.IntN(10) == 0 {
		d += s.between(0, 5*time.Second) // a pull
	}
	s.after(d, func() {
		if n.boot != boot || !c.starting || c.stopping {
			return
		}
		c.starting = false
		if !c.lease.IsZero() && !s.now.Before(c.lease) {
			return
		}
		c.live, c.tuned = true, c.task.Tuned
		n.checkFence(c)
		n.report(c, job.Running)
		if s.bad[n.image(c)] {
			s.after(s.between(0, 300*time.Millisecond), func() {
				if n.boot == boot && c.live && !c.stopping {
					n.crash(c)
				}
			})
		}
	})
}

func (n *simNode) image(c *simContainer) string {
	if sv := n.s.store.View().Service(c.task.Digest); sv != nil {
		return sv.Image
	}
	return ""
}

// crash is an exit that nobody asked for: twice started again here, then the task has failed.
func (n *simNode) crash(c *simContainer) {
	n.die(c)
	sv := n.s.store.View().Service(c.task.Digest)
	if c.failures++; c.failures < 3 && (sv == nil || sv.Restart.Policy != job.RestartNever) {
		n.start(c)
		return
	}
	c.ended = true
	n.report(c, job.Failed)
}

func (n *simNode) die(c *simContainer) { c.live = false }

func (n *simNode) stop(c *simContainer) {
	if c.ended || c.stopping {
		return
	}
	c.stopping = true
	boot := n.boot
	n.s.after(n.s.between(5*time.Millisecond, 1500*time.Millisecond), func() {
		if n.boot != boot {
			return
		}
		n.die(c)
		c.starting, c.ended = false, true
		n.report(c, job.Complete)
	})
}

func (n *simNode) report(c *simContainer, is job.State) {
	n.seq++
	st := job.Status{Task: c.task.ID, Node: n.id, Seq: n.seq, State: is, Tuned: c.tuned, At: map[job.State]time.Time{is: n.s.now}}
	if is == job.Failed {
		one := 1
		st.ExitCode = &one
	}
	n.unsent[c.task.ID] = st
}

// send reports what was not confirmed yet.
func (n *simNode) send() {
	if len(n.unsent) == 0 || !n.s.leads {
		return
	}
	ids := make([]job.TaskID, 0, len(n.unsent))
	for id := range n.unsent {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	batch := make([]job.Status, 0, len(ids))
	for _, id := range ids {
		batch = append(batch, n.unsent[id])
	}
	n.s.propose(state.Report{Node: n.id, Statuses: batch, At: n.s.now}, func(_ state.Result, known bool) {
		if !known || !n.reached() {
			return // it is sent again
		}
		for _, st := range batch {
			if n.unsent[st.Task].Seq == st.Seq {
				delete(n.unsent, st.Task)
			}
		}
	})
}

// checkFence: a slot of a fenced service never has two live containers, whatever anybody believes. What was placed as fast
// and runs on where nobody sees it has no lease that would end it: the service became fenced too late for that one.
func (n *simNode) checkFence(c *simContainer) {
	for id, o := range n.s.nodes {
		for tid, other := range o.containers {
			t, u := &c.task, &other.task
			if !other.live || tid == t.ID || u.Job != t.Job || u.Service != t.Service || u.Slot != t.Slot {
				continue
			}
			if older := min(t.Index, u.Index); older == t.Index && t.Failover == job.FailoverFenced || older == u.Index && u.Failover == job.FailoverFenced {
				n.s.fail("%s/%s is fenced and lives on nodes %s and %s (tasks %s, %s)", t.Job, t.Name(), n.id, id, t.ID, tid)
			}
		}
	}
}

func (n *simNode) powerOff() {
	n.on, n.lostAt = false, n.s.now
	n.boot++
	for _, c := range n.containers {
		n.die(c)
		c.starting, c.stopping, c.lease = false, false, time.Time{}
	}
}

func (n *simNode) powerOn() {
	n.on, n.backAt = true, n.s.now
	n.boot++
	n.beat(n.boot)
}

// disturb does something random.
func (s *simulation) disturb() {
	var ids []job.NodeID
	for id, n := range s.nodes {
		if !n.gone {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	n := s.nodes[ids[s.r.IntN(len(ids))]]
	name := fmt.Sprintf("j%d", s.r.IntN(4))
	did := func(format string, args ...any) {
		what := fmt.Sprintf(format, args...)
		s.note("%s", what)
		s.counts["changes and faults"]++
	}
	switch k := s.r.IntN(24); k {
	case 0, 1, 2, 3, 4, 5:
		spec := job.Spec{Name: name, Services: s.services()}
		did("submit %s: %s", name, sketch(spec))
		s.change(name, state.PutJob{Spec: spec, At: s.now}, spec)
	case 6, 7:
		want := s.r.IntN(8)
		did("scale %s/s0=%d", name, want)
		s.change(name, state.ScaleJob{Job: name, Replicas: map[string]int{"s0": want}, At: s.now}, job.Spec{})
	case 8:
		did("stop %s", name)
		s.change(name, state.StopJob{Job: name, At: s.now}, job.Spec{})
	case 9:
		did("start %s", name)
		s.change(name, state.StartJob{Job: name, At: s.now}, job.Spec{})
	case 10:
		did("restart %s", name)
		s.change(name, state.RestartJob{Job: name, At: s.now}, job.Spec{})
	case 11:
		did("remove %s", name)
		s.change(name, state.RemoveJob{Job: name, At: s.now}, job.Spec{})
	case 12, 13:
		if v := s.store.View().Node(n.id); v != nil {
			did("drain %s: %v", n.id, !v.Drained)
			s.propose(state.SetDrain{Node: n.id, Drained: !v.Drained, At: s.now}, func(state.Result, bool) {})
		}
	case 14, 15, 16:
		if n.on {
			did("power off %s", n.id)
			n.powerOff()
		} else {
			did("power on %s", n.id)
			n.powerOn()
		}
	case 17, 18, 19:
		did("link of %s: %v", n.id, !n.linked)
		if n.linked = !n.linked; n.linked {
			n.backAt = s.now
		} else {
			n.lostAt = s.now
		}
	case 20:
		did("lose the leader")
		s.loseLeader()
	case 21:
		did("a slow disk")
		s.slowDisk = s.now.Add(s.between(0, 8*time.Second))
	case 22:
		image := fmt.Sprintf("i%d", s.r.IntN(3))
		s.bad[image] = !s.bad[image]
		did("image %s is bad: %v", image, s.bad[image])
	case 23:
		var live []*simContainer
		for _, id := range ids {
			for _, k := range s.store.View().TasksOfNode(id) {
				if c := s.nodes[id].containers[k.ID]; c != nil && c.live && !c.stopping {
					live = append(live, c)
				}
			}
		}
		if len(live) > 0 {
			c := live[s.r.IntN(len(live))]
			did("crash of %s", c.task.ID)
			s.nodes[c.task.Node].crash(c)
		}
	}
}

// change proposes what a user wants, and remembers what was acknowledged.
func (s *simulation) change(name string, c state.Command, spec job.Spec) {
	if !s.leads {
		return // the user is told so
	}
	s.propose(c, func(res state.Result, known bool) {
		if res.Err != nil {
			return
		}
		if !known {
			delete(s.acked, name) // nobody can say which of the two it is
			return
		}
		if j := s.store.View().Job(name); j != nil {
			s.acked[name] = j.Spec
		} else if _, ok := c.(state.RemoveJob); ok {
			s.acked[name] = job.Spec{}
		}
		_ = spec
	})
}

// services are random ones: those of the property test, some of them with a fail-over policy.
func (s *simulation) services() []job.Service {
	out := randomServices(s.r)
	for i := range out {
		if out[i].Mode == job.Global {
			continue
		}
		switch s.r.IntN(6) {
		case 0, 1:
			out[i].Failover = &job.Failover{Mode: job.FailoverFenced, Lease: s.between(job.MinLease, 12*time.Second)}
		case 2:
			out[i].Failover = &job.Failover{Mode: job.FailoverManual}
		}
	}
	return out
}

func sketch(spec job.Spec) (out string) {
	for i := range spec.Services {
		sv := &spec.Services[i]
		out += fmt.Sprintf("%s=%s×%d %s %s; ", sv.Name, sv.Image, sv.Replicas, sv.Mode, sv.FailoverPolicy().Mode)
	}
	return out
}

// recover ends all faults.
func (s *simulation) recover() {
	s.note("all faults end")
	clear(s.bad)
	s.slowDisk = time.Time{}
	var ids []job.NodeID
	for id := range s.nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		n := s.nodes[id]
		if !n.linked {
			n.linked, n.backAt = true, s.now
		}
		if !n.on {
			n.powerOn()
		}
	}
	s.awaitQuiet()
}
