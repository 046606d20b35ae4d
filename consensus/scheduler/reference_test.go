package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// TestPlacementsAreTheReferences compares every placement on random clusters with a reference that knows the rules and
// nothing of heaps, classes and groups: it may be there, no other node would have been better, and in the end whatever the
// reference could place is placed.
func TestPlacementsAreTheReferences(t *testing.T) {
	seeds := slices.Concat([]uint64{1, 2, 3}, foundBefore)
	for range 40 {
		seeds = append(seeds, rand.Uint64())
	}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		if !t.Run("", func(t *testing.T) { runReference(t, seed) }) {
			t.Fatalf("again with: go test ./consensus/scheduler -run TestPlacementsAreTheReferences -seed %d", seed)
		}
	}
}

// foundBefore are seeds that found something, of a time when services were made by referenceServices alone.
var foundBefore = []uint64{
	15996839339916563563, // a task is placed near one that begins in the same plan
	1130977712115247536,  // a task begins beside another from which it must be apart, which took its predecessor's place
}

func runReference(t *testing.T, seed uint64) {
	r := newRand(seed)
	more := rand.New(rand.NewPCG(seed, 8))
	w := newWorld(t, seed)
	w.leasesEnd = true
	for i := range 3 + r.IntN(6) {
		w.node(fmt.Sprintf("n%d", i), memory(256*(2+r.Int64N(8))), func(n *job.Node) {
			n.Labels = map[string]string{"zone": string(rune('a' + r.IntN(2))), "rack": fmt.Sprint(r.IntN(3)), "v": fmt.Sprintf("1.%d", r.IntN(12))}
			if r.IntN(2) == 0 {
				n.Generic = []job.Generic{{Kind: "gpu", IDs: []string{"u0", "u1"}[:1+r.IntN(2)]}}
			}
		})
	}
	// What room is kept for a task of higher priority is not free, which the reference does not know: then it does not judge
	// what would have been better.
	if seed%2 == 0 {
		w.apply(state.SetCluster{Set: map[string]string{job.SettingPreemption: "off"}, At: w.now})
	}
	for range 25 {
		name := fmt.Sprintf("j%d", r.IntN(4))
		nodes := w.store.View().Nodes()
		n := nodes[r.IntN(len(nodes))]
		w.now = w.now.Add(5 * time.Minute) // nothing flaps
		switch r.IntN(8) {
		case 0, 1, 2, 3:
			ss := referenceServices(r)
			if !slices.Contains(foundBefore, seed) {
				vary(more, ss)
			}
			w.tryApply(state.PutJob{Spec: job.Spec{Name: name, Services: ss}, At: w.now})
		case 4:
			w.tryApply(state.ScaleJob{Job: name, Replicas: map[string]int{"s0": r.IntN(9)}, At: w.now})
		case 5:
			w.tryApply(state.RemoveJob{Job: name, At: w.now})
		case 6:
			w.apply(state.SetDrain{Node: n.ID, Drained: !n.Drained, At: w.now})
		case 7:
			w.cut[n.ID] = !w.cut[n.ID]
			if w.cut[n.ID] {
				w.tryApply(state.NodeDown{Node: n.ID, At: w.now})
			} else {
				w.tryApply(state.NodeUp{Node: n.ID, At: w.now})
			}
		}
		for i := 0; ; i++ {
			if i > 3000 {
				t.Fatalf("does not settle %s", w.dump())
			}
			pl, next := referencedPlan(w)
			if did := w.act(); did || !pl.Empty() {
				continue
			}
			if next.At.IsZero() || i > 2500 {
				break
			}
			w.now = next.At
		}
		nothingLeft(w)
	}
}

func referenceServices(r *rand.Rand) (out []job.Service) {
	for i := range 1 + r.IntN(3) {
		s := job.Service{Name: fmt.Sprintf("s%d", i), Replicas: r.IntN(7), Image: fmt.Sprintf("i%d", r.IntN(3))}
		s.Reservations.MemoryBytes = r.Int64N(3) * 128 << 20
		pl := &job.Placement{}
		for _, k := range []string{"node.labels.zone", "node.labels.rack"} {
			if r.IntN(3) == 0 {
				pl.Spread = append(pl.Spread, k)
			}
		}
		if r.IntN(4) == 0 {
			pl.MaxPerNode = 1 + r.IntN(2)
		}
		if r.IntN(4) == 0 {
			pl.Prefer = []job.Preference{{Constraint: job.Constraint{Key: "node.labels.rack", Op: "==", Value: "1"}, Weight: 20 - r.IntN(40)*2 + 1}}
		}
		if r.IntN(3) == 0 && i > 0 {
			pl.Peers = []job.Peer{{Service: "s0", Apart: r.IntN(2) == 0, By: []string{"", "node.labels.zone", "node.labels.rack"}[r.IntN(3)], Weight: r.IntN(2) * 30}}
		}
		if r.IntN(3) == 0 {
			s.Constraints = []job.Constraint{[]job.Constraint{
				{Key: "node.labels.zone", Op: "==", Value: "a"}, {Key: "node.labels.rack", Op: "not in", Value: "0,9"}, {Key: "node.labels.v", Op: ">=", Value: "1.5"},
			}[r.IntN(3)]}
		}
		if r.IntN(5) == 0 {
			s.Generic = []job.GenericRequest{{Kind: "gpu", Count: 1}}
		}
		if r.IntN(3) == 0 {
			p := r.IntN(101)
			s.Priority = &p
		}
		s.Placement = pl
		out = append(out, s)
	}
	return out
}

// vary gives random services what referenceServices does not.
func vary(r *rand.Rand, ss []job.Service) {
	for i := range ss {
		s := &ss[i]
		if r.IntN(6) == 0 {
			s.Placement.Peers = []job.Peer{{Service: s.Name, Apart: true, By: []string{"", "node.labels.zone", "node.labels.rack"}[r.IntN(3)]}}
		}
		switch r.IntN(8) {
		case 0:
			s.Failover = &job.Failover{Mode: job.FailoverFenced}
		case 1:
			s.Failover = &job.Failover{Mode: job.FailoverManual}
		}
	}
}

// reference is what is where, written down the dumb way.
type reference struct {
	v     *state.View
	at    map[job.NodeID][]*job.Task // that have not ended
	image map[string]map[job.NodeID]bool
}

func newReference(v *state.View) *reference {
	d := &reference{v, map[job.NodeID][]*job.Task{}, map[string]map[job.NodeID]bool{}}
	for _, k := range v.Tasks() {
		st := v.Status(k.ID)
		if (st == nil || !st.State.Terminal()) && k.Wait != job.WaitRoom {
			d.at[k.Node] = append(d.at[k.Node], k)
		}
		if st != nil && (!st.At[job.Created].IsZero() || !st.At[job.Running].IsZero() || st.State == job.Complete) {
			img := v.Service(k.Digest).Image
			if d.image[img] == nil {
				d.image[img] = map[job.NodeID]bool{}
			}
			d.image[img][k.Node] = true
		}
	}
	return d
}

// count is how many tasks of a service are where f says.
func (d *reference) count(jobName, service string, f func(*job.Node) bool) (c int) {
	for _, n := range d.v.Nodes() {
		for _, k := range d.at[n.ID] {
			if k.Job == jobName && k.Service == service && f(n) {
				c++
			}
		}
	}
	return c
}

// near is how many tasks of a service are where a node is, by what both say under a key. What is on a node that is not
// there is near only those that must not come near it, and only if it may still run.
func (d *reference) near(n *job.Node, jobName, service string, p job.Peer) int {
	c := 0
	for _, o := range d.v.Nodes() {
		for _, k := range d.at[o.ID] {
			if k.Job == jobName && k.Service == service && sameBy(o, n, p.By) && (o.State == job.NodeReady || p.Apart && k.Held()) {
				c++
			}
		}
	}
	return c
}

func sameBy(a, b *job.Node, by string) bool {
	if by == "" {
		return a.ID == b.ID
	}
	x, _ := a.Value(by)
	y, _ := b.Value(by)
	return x == y
}

func (d *reference) used(n *job.Node) (mem int64, gpus int) {
	for _, k := range d.at[n.ID] {
		mem += d.v.Service(k.Digest).Demand().MemoryBytes
		for _, g := range k.Generic {
			gpus += g.Total()
		}
	}
	return mem, gpus
}

func (d *reference) admits(n *job.Node, s *job.Service) bool {
	for _, c := range s.Constraints {
		m, err := c.Compile()
		if err != nil || !m.Holds(n) {
			return false
		}
	}
	return n.State == job.NodeReady && !n.Drained
}

// takes tells whether one more task of a service may be on a node.
func (d *reference) takes(n *job.Node, jobName string, s *job.Service) bool {
	if !d.admits(n, s) || !d.holds(n, s) || d.foe(n, jobName, s) {
		return false
	}
	if most := s.MaxPerNode(); most > 0 && d.count(jobName, s.Name, func(o *job.Node) bool { return o.ID == n.ID }) >= most {
		return false
	}
	if s.Placement != nil {
		for _, p := range s.Placement.Peers {
			if p.Weight == 0 && !p.Apart && d.near(n, jobName, p.Service, p) == 0 {
				return false
			}
		}
	}
	return true
}

// holds tells whether a node has room for one more task of a service.
func (d *reference) holds(n *job.Node, s *job.Service) bool {
	mem, gpus := d.used(n)
	if m := s.Demand().MemoryBytes; m > 0 && mem+m > n.Allocatable().MemoryBytes {
		return false
	}
	for _, g := range s.Generic {
		if gpus+g.Count > n.GenericTotal("gpu") {
			return false
		}
	}
	return true
}

// foe tells whether a task is where a node is that must be apart from one of a service.
func (d *reference) foe(n *job.Node, jobName string, s *job.Service) bool {
	if s.Placement != nil {
		for _, p := range s.Placement.Peers {
			if p.Weight == 0 && p.Apart && d.near(n, jobName, p.Service, p) > 0 {
				return true
			}
		}
	}
	for _, o := range d.v.Job(jobName).Spec.Services { // those that want to be apart from it
		if o.Placement == nil {
			continue
		}
		for _, p := range o.Placement.Peers {
			if p.Service == s.Name && p.Apart && p.Weight == 0 && d.near(n, jobName, o.Name, p) > 0 {
				return true
			}
		}
	}
	return false
}

// score is what a node is worth for one more task: the less the better, by the first number that differs.
func (d *reference) score(n *job.Node, jobName string, s *job.Service) (out []float64) {
	for i := range s.SpreadKeys() {
		out = append(out, float64(d.count(jobName, s.Name, func(o *job.Node) bool {
			for _, k := range s.SpreadKeys()[:i+1] {
				if !sameBy(o, n, k) {
					return false
				}
			}
			return d.admits(o, s)
		})))
	}
	wish := 0
	if s.Placement != nil {
		for _, f := range s.Placement.Prefer {
			if m, err := f.Compile(); err == nil && m.Holds(n) {
				wish -= f.Weight
			}
		}
	}
	for _, o := range d.v.Job(jobName).Spec.Services {
		if o.Placement == nil {
			continue
		}
		for _, p := range o.Placement.Peers {
			mine, theirs := o.Name == s.Name, p.Service == s.Name && p.Apart
			if p.Weight == 0 || !mine && !theirs {
				continue
			}
			other := p.Service
			if !mine {
				other = o.Name
			}
			if d.near(n, jobName, other, p) > 0 {
				if p.Apart {
					wish += p.Weight
				} else {
					wish -= p.Weight
				}
			}
		}
	}
	mem, _ := d.used(n)
	load := max(float64(len(d.at[n.ID]))/(4*tasksPerCPU), float64(mem)/float64(n.Capacity.MemoryBytes))
	if has := d.image[s.Image]; len(has) > 0 && !has[n.ID] {
		load += imageWorth
	}
	return append(out, float64(wish), float64(d.count(jobName, s.Name, func(o *job.Node) bool { return o.ID == n.ID })), load)
}

func referencedPlan(w *world) (state.Plan, Next) {
	w.t.Helper()
	v := w.store.View()
	pl, next := w.p.Plan(w.now, 0)
	if !sameIndex(w.p, New(v)) {
		w.t.Fatalf("planning changed the index %s", w.dump())
	}
	d := newReference(v)
	for _, id := range pl.Begin { // before others are placed, who may count on them
		k := v.Task(id)
		if k.Wait != job.WaitRoom {
			continue // it counted all the time
		}
		n, s := v.Node(k.Node), v.Service(k.Digest)
		if !d.holds(n, s) || d.foe(n, k.Job, s) {
			w.t.Fatalf("%s/%s begins on %s, which the reference refuses %s", k.Job, k.Name(), n.Name, w.dump())
		}
		d.at[k.Node] = append(d.at[k.Node], k)
	}
	kept := w.p.preempts || len(pl.Tune) > 0 || len(pl.Begin) > 0
	for i := range pl.Place {
		k := &pl.Place[i]
		s := v.Job(k.Job).Spec.Service(k.Service)
		n := v.Node(k.Node)
		if k.Wait == job.WaitNone {
			if !d.takes(n, k.Job, s) {
				w.t.Fatalf("%s/%s placed on %s (%s), which the reference refuses %s", k.Job, k.Name(), n.Name, k.Cause, w.dump())
			}
			mine := d.score(n, k.Job, s)
			for _, o := range v.Nodes() {
				if kept || k.Move || w.p.flapping(w.p.nodes[o.ID]) || !d.takes(o, k.Job, s) {
					continue
				}
				if other := d.score(o, k.Job, s); slices.Compare(other, mine) < 0 {
					w.t.Fatalf("%s/%s placed on %s with %v, but %s has %v %s", k.Job, k.Name(), n.Name, mine, o.Name, other, w.dump())
				}
			}
		}
		if k.Wait != job.WaitRoom {
			d.at[k.Node] = append(d.at[k.Node], k)
		}
	}
	for _, st := range pl.Stop {
		k := v.Task(st.ID)
		var by string
		var high, low int
		if n, _ := fmt.Sscanf(st.Cause, preemptedBy+"%s whose priority is %d and not %d", &by, &high, &low); n == 3 {
			if sv := v.Job(k.Job).Spec.Service(k.Service); sv.PriorityOf() != low || high < low+job.PriorityGap {
				w.t.Fatalf("%s of priority %d: %s", k.Name(), sv.PriorityOf(), st.Cause)
			}
		}
	}
	if !pl.Empty() {
		if res := w.apply(pl).Value.(*state.PlanResult); len(res.Refused) > 0 {
			w.t.Fatalf("refused: %+v %s", res.Refused, w.dump())
		}
	}
	after := newReference(w.store.View())
	for _, n := range w.store.View().Nodes() {
		if mem, gpus := after.used(n); mem > n.Allocatable().MemoryBytes || gpus > n.GenericTotal("gpu") {
			w.t.Fatalf("node %s: %d bytes and %d gpus are used %s", n.Name, mem, gpus, w.dump())
		}
	}
	return pl, next
}

// nothingLeft checks that no slot is empty that the reference could fill.
func nothingLeft(w *world) {
	w.t.Helper()
	v := w.store.View()
	d := newReference(v)
	for _, j := range v.Jobs() {
		for i := range j.Spec.Services {
			s := &j.Spec.Services[i]
			live := 0
			for _, k := range v.TasksOfService(j.Name, s.Name) {
				there := v.Node(k.Node).State == job.NodeReady || k.Held()
				if st := v.Status(k.ID); there && k.Desired == job.DesiredRun && (st == nil || !st.State.Terminal()) {
					live++
				}
			}
			if j.Stopped || live >= s.Replicas {
				continue
			}
			if w.blocked(j.Name, s.Name) == "" {
				w.t.Fatalf("%s/%s has %d of %d and no reason %s", j.Name, s.Name, live, s.Replicas, w.dump())
			}
			for _, n := range v.Nodes() {
				if d.takes(n, j.Name, s) {
					w.t.Fatalf("%s/%s has %d of %d although %s takes one %s", j.Name, s.Name, live, s.Replicas, n.Name, w.dump())
				}
			}
		}
	}
}
