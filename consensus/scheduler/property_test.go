package scheduler

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

var seedFlag = flag.Uint64("seed", 0, "run the property test with this seed only")

// TestRandomClusters throws random jobs and failures at small clusters and checks, against rules written the dumb way,
// every plan as it is made and every world once it is quiet.
func TestRandomClusters(t *testing.T) {
	seeds := []uint64{1, 2, 3, 18046603450759038047, 554621918658302811, 15318696179024095065} // the large ones found something
	for range 30 {
		seeds = append(seeds, rand.Uint64())
	}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		if !t.Run("", func(t *testing.T) { runRandom(t, seed) }) {
			t.Fatalf("again with: go test ./consensus/scheduler -run TestRandomClusters -seed %d", seed)
		}
	}
}

func runRandom(t *testing.T, seed uint64) {
	r := newRand(seed)
	w := newWorld(t, seed)
	w.leasesEnd = true
	bad := map[string]bool{} // images that fail
	w.behave = func(k *job.Task) job.State {
		if s := w.store.View().Service(k.Digest); s != nil && bad[s.Image] {
			return job.Failed
		}
		return job.Running
	}
	for i := range 2 + r.IntN(5) {
		w.node(fmt.Sprintf("n%d", i), memory(512+256*r.Int64N(8)), label("zone", string(rune('x'+r.IntN(2)))))
	}
	for range 30 {
		disturb(w, r, bad)
		if r.IntN(3) == 0 {
			// The world moves on between plan and proposal: parts are refused, and the state must stay sound.
			pl, _ := w.p.Plan(w.now, 1+r.IntN(20))
			disturb(w, r, bad)
			w.act()
			w.apply(pl)
		}
		for range r.IntN(4) {
			checkedPlan(w)
			w.act()
		}
	}
	clear(bad)
	for i := 0; ; i++ {
		if i > 3000 {
			t.Fatalf("does not settle %s", w.dump())
		}
		pl, next := checkedPlan(w)
		if did := w.act(); !did && pl.Empty() {
			if next.At.IsZero() || i > 2500 {
				break
			}
			w.now = next.At
		}
	}
	checkQuiet(w)
}

func disturb(w *world, r *rand.Rand, bad map[string]bool) {
	nodes := w.store.View().Nodes()
	n := nodes[r.IntN(len(nodes))]
	name := fmt.Sprintf("j%d", r.IntN(4))
	w.now = w.now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
	switch r.IntN(12) {
	case 0, 1, 2, 3:
		w.tryApply(state.PutJob{Spec: job.Spec{Name: name, Services: randomServices(r)}, At: w.now})
	case 4:
		w.tryApply(state.ScaleJob{Job: name, Replicas: map[string]int{"s0": r.IntN(8)}, At: w.now})
	case 5:
		w.tryApply(state.StopJob{Job: name, At: w.now})
	case 6:
		w.tryApply(state.RemoveJob{Job: name, At: w.now})
	case 7:
		w.tryApply(state.SetDrain{Node: n.ID, Drained: !n.Drained, At: w.now})
	case 8:
		w.cut[n.ID] = true
		w.tryApply(state.NodeDown{Node: n.ID, At: w.now})
	case 9:
		w.cut[n.ID] = false
		w.tryApply(state.NodeUp{Node: n.ID, At: w.now})
	case 10:
		if w.cut[n.ID] && len(nodes) > 1 {
			w.tryApply(state.RemoveNode{Node: n.ID, Force: true, At: w.now})
		}
	case 11:
		bad[fmt.Sprintf("i%d", r.IntN(3))] = r.IntN(2) == 0
	}
}

func randomServices(r *rand.Rand) (out []job.Service) {
	for i := range 1 + r.IntN(3) {
		s := job.Service{Name: fmt.Sprintf("s%d", i), Replicas: r.IntN(6), Image: fmt.Sprintf("i%d", r.IntN(3))}
		s.Reservations.MemoryBytes = r.Int64N(3) * 200 << 20
		if r.IntN(3) == 0 { // mostly the same otherwise: a change in place
			s.Image, s.Labels = "i0", map[string]string{"v": fmt.Sprint(r.IntN(3))}
		}
		if r.IntN(4) == 0 {
			s.Update = &job.Update{Canaries: 1 + r.IntN(2), AutoPromote: r.IntN(2) == 0}
		}
		switch r.IntN(8) {
		case 0:
			s.Mode = job.Global
		case 1:
			s.Ports = []job.Port{{Published: uint16(80 + r.IntN(2)), Target: 80, Protocol: "tcp"}}
		case 2:
			s.Constraints = []job.Constraint{{Key: "node.labels.zone", Op: []string{"==", "!="}[r.IntN(2)], Value: "x"}}
		case 3:
			s.Mounts = []job.Mount{{Type: job.MountVolume, Source: "v", Target: "/v"}}
		case 4:
			if i > 0 {
				s.DependsOn = []job.Dependency{{Service: "s0", Condition: job.DependHealthy}}
			}
		case 5:
			s.Restart.Policy = job.RestartNever
		}
		out = append(out, s)
	}
	return out
}

// dumb is what is used, added up from all tasks.
type dumb struct {
	v     *state.View
	mem   map[job.NodeID]int64
	ports map[job.NodeID]map[uint16]int
	count map[string]map[job.NodeID]int
}

func newDumb(v *state.View) *dumb {
	d := &dumb{v, map[job.NodeID]int64{}, map[job.NodeID]map[uint16]int{}, map[string]map[job.NodeID]int{}}
	for _, k := range v.Tasks() {
		if st := v.Status(k.ID); (st == nil || !st.State.Terminal()) && k.Wait != job.WaitRoom {
			d.add(k, v.Service(k.Digest))
		}
	}
	return d
}

func (d *dumb) add(k *job.Task, s *job.Service) {
	d.mem[k.Node] += s.Demand().MemoryBytes
	if d.ports[k.Node] == nil {
		d.ports[k.Node] = map[uint16]int{}
	}
	for _, p := range s.Ports {
		d.ports[k.Node][p.Published]++
	}
	d.counts(k)
}

func (d *dumb) counts(k *job.Task) {
	key := k.Job + "/" + k.Service
	if d.count[key] == nil {
		d.count[key] = map[job.NodeID]int{}
	}
	d.count[key][k.Node]++
}

func (d *dumb) remove(k *job.Task, s *job.Service) {
	d.mem[k.Node] -= s.Demand().MemoryBytes
	for _, p := range s.Ports {
		d.ports[k.Node][p.Published]--
	}
	d.count[k.Job+"/"+k.Service][k.Node]--
}

func (d *dumb) takes(n *job.Node, s *job.Service) bool {
	if n.State != job.NodeReady || n.Drained {
		return false
	}
	for _, c := range s.Constraints {
		if (n.Labels["zone"] == c.Value) != (c.Op == "==") {
			return false
		}
	}
	for _, p := range s.Ports {
		if d.ports[n.ID][p.Published] > 0 {
			return false
		}
	}
	m := s.Demand().MemoryBytes
	return m == 0 || d.mem[n.ID]+m <= n.Capacity.MemoryBytes
}

// checkedPlan makes a plan, checks each placement in order against the dumb rules, and applies it.
func checkedPlan(w *world) (state.Plan, Next) {
	w.t.Helper()
	v := w.store.View()
	fresh := New(v)
	if !sameIndex(w.p, fresh) {
		w.t.Fatalf("the planner's index differs from one built anew %s", w.dump())
	}
	twin := New(v)
	fresh.NewID, twin.NewID = SeededIDs([32]byte{1}), SeededIDs([32]byte{1})
	one, _ := fresh.Plan(w.now, 0)
	two, _ := twin.Plan(w.now, 0)
	if !reflect.DeepEqual(one, two) {
		w.t.Fatalf("equal states give different plans:\n%+v\n%+v", one, two)
	}
	pl, next := w.p.Plan(w.now, 0)
	if !sameIndex(w.p, fresh) {
		w.t.Fatalf("planning changed the index")
	}
	d := newDumb(v)
	full := newDumb(v) // with all that the plan lets weigh besides placements, some of it before, some after them
	for _, id := range pl.Begin {
		if k := v.Task(id); k.Wait == job.WaitRoom {
			d.counts(k)
			full.add(k, v.Service(k.Digest))
		}
	}
	for _, u := range pl.Tune {
		full.add(v.Task(u.ID), v.Service(u.Digest))
	}
	for i := range pl.Place {
		k := &pl.Place[i]
		s := v.Service(k.Digest)
		n := v.Node(k.Node)
		old := v.Task(k.Replaces)
		if k.Wait == job.WaitRoom { // it takes the other's room, and that counts as taken all the while
			d.remove(old, v.Service(old.Digest))
			if old.Node != k.Node || !d.takes(n, s) {
				w.t.Fatalf("%s waits for room on %s, which will not be there %s", k.Name(), n.Name, w.dump())
			}
			d.add(old, v.Service(old.Digest))
			continue
		}
		if !d.takes(n, s) {
			w.t.Fatalf("%s placed on %s, which cannot take it %s", k.Name(), n.Name, w.dump())
		}
		if k.Wait == job.WaitNone && s.Mode != job.Global && len(s.Mounts) == 0 && (old == nil || old.Node == "" || k.Attempt == 0) {
			for _, o := range v.Nodes() {
				in := w.p.nodes[o.ID]
				shunned := w.p.penalty(w.p.service(k.Job, k.Service), in) > 0
				if c := d.count[k.Job+"/"+k.Service]; d.takes(o, s) && full.takes(o, s) && !shunned && c[o.ID] < c[k.Node] {
					w.t.Fatalf("%s placed on %s, but %s has fewer of it (%v): %+v %s", k.Name(), n.Name, o.Name, c, pl, w.dump())
				}
			}
		}
		d.add(k, s)
		full.add(k, s)
	}
	if !pl.Empty() {
		if res := w.apply(pl).Value.(*state.PlanResult); len(res.Refused) > 0 {
			w.t.Fatalf("refused: %+v of %+v %s", res.Refused, pl, w.dump())
		}
	}
	for _, n := range w.store.View().Nodes() {
		if used := newDumb(w.store.View()).mem[n.ID]; used > n.Capacity.MemoryBytes {
			w.t.Fatalf("node %s: %d bytes used of %d", n.Name, used, n.Capacity.MemoryBytes)
		}
	}
	return pl, next
}

// sameIndex compares what a planner kept by changes knows with what another one was built from.
func sameIndex(a, b *Planner) bool {
	if len(a.nodes) != len(b.nodes) || len(a.tasks) != len(b.tasks) {
		return false
	}
	for id, n := range a.nodes {
		m := b.nodes[id]
		if m == nil || n.used != m.used || n.running != m.running || n.load != m.load || len(n.ports) != len(m.ports) || len(n.tasks) != len(m.tasks) ||
			!maps.Equal(n.generic, m.generic) || !maps.Equal(n.ids, m.ids) {
			return false
		}
	}
	for key, c := range b.classes {
		d := a.classes[key]
		if d == nil || c.size != d.size || len(c.leaves) != len(d.leaves) {
			return false
		}
		for lk, l := range d.leaves {
			if m := c.leaves[lk]; m == nil || len(m.heap) != len(l.heap) {
				return false
			}
			for i, e := range l.heap {
				if e.pos != i || (i > 0 && l.less(e, l.heap[(i-1)/2])) {
					return false
				}
			}
		}
	}
	for name, j := range b.jobs {
		for sn, s := range j.services {
			if o := a.service(name, sn); !reflect.DeepEqual(o.count, s.count) || o.digest != s.digest || o.rollout != s.rollout || (o.former == nil) != (s.former == nil) {
				return false
			}
		}
	}
	return true
}

// checkQuiet checks a world in which nothing happens any more.
func checkQuiet(w *world) {
	v := w.store.View()
	d := newDumb(v)
	for _, j := range v.Jobs() {
		if j.Stopped {
			if n := len(liveIn(v, v.TasksOfJob(j.Name), w)); n > 0 {
				w.t.Errorf("stopped job %s has %d live tasks %s", j.Name, n, w.dump())
			}
			continue
		}
		for i := range j.Spec.Services {
			s := &j.Spec.Services[i]
			if s.Mode == job.Global {
				continue
			}
			fewCanaries(w, v, j.Name, s)
			empty := 0
			for slot := 1; slot <= s.Replicas; slot++ {
				tasks := v.TasksOfSlot(j.Name, s.Name, slot, "")
				live := liveIn(v, tasks, w)
				if len(live) > 1 {
					w.t.Fatalf("%s/%s.%d has %d live tasks %s", j.Name, s.Name, slot, len(live), w.dump())
				}
				if len(live) == 0 && !isDone(v, tasks, s) && !isHeld(v, tasks) {
					empty++
				}
			}
			if empty == 0 {
				continue
			}
			if w.blocked(j.Name, s.Name) == "" {
				w.t.Fatalf("%s/%s has %d empty slots and no reason %s", j.Name, s.Name, empty, w.dump())
			}
			if r := v.Rollout(j.Name, s.Name); len(s.DependsOn) > 0 || len(s.Mounts) > 0 || r.Live() && r.Canaries > 0 { // some slots may want the former content
				continue
			}
			for _, n := range v.Nodes() {
				if d.takes(n, s) {
					w.t.Fatalf("%s/%s has %d empty slots although %s takes one %s", j.Name, s.Name, empty, n.Name, w.dump())
				}
			}
		}
	}
}

// fewCanaries checks that no more slots than may run a content that is not promoted yet.
func fewCanaries(w *world, v *state.View, jobName string, s *job.Service) {
	r := v.Rollout(jobName, s.Name)
	if !r.Live() || r.Canaries == 0 {
		return
	}
	was := v.Service(r.FromDigest)
	if was == nil || !job.SamePlaces(was, s) {
		return
	}
	if was.Shape() == s.Shape() && !job.Wary(was, s) { // what hurts nobody is done to all at once, and stays with who takes their places
		return
	}
	n := 0
	for _, k := range liveIn(v, v.TasksOfService(jobName, s.Name), w) {
		if k.Digest == s.Digest() && k.Tuned == 0 { // what hurts nobody is done to all at once
			n++
		}
	}
	if n > r.Canaries {
		w.t.Fatalf("%s/%s has %d canaries and not %d %s", jobName, s.Name, n, r.Canaries, w.dump())
	}
}

// liveIn counts tasks that are meant to run on nodes that are there.
func liveIn(v *state.View, tasks []*job.Task, w *world) (out []*job.Task) {
	for _, k := range tasks {
		n := v.Node(k.Node)
		if st := v.Status(k.ID); k.Desired == job.DesiredRun && (st == nil || !st.State.Terminal()) && n != nil && n.State == job.NodeReady {
			out = append(out, k)
		}
	}
	return out
}

// isHeld tells whether a slot waits for a fenced task on a node that is not there.
func isHeld(v *state.View, tasks []*job.Task) bool {
	for _, k := range tasks {
		n := v.Node(k.Node)
		if st := v.Status(k.ID); k.Held() && (st == nil || !st.State.Terminal()) && n != nil && n.State != job.NodeReady {
			return true
		}
	}
	return false
}

func isDone(v *state.View, tasks []*job.Task, s *job.Service) bool {
	for _, k := range tasks {
		if st := v.Status(k.ID); k.Desired == job.DesiredRun && st != nil && final(s, st.State) {
			return true
		}
	}
	return false
}
