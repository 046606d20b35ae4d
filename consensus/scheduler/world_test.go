package scheduler

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// world is a cluster without machines: the real state, the planner kept by its changes, and nodes that do at once what
// their tasks say.
type world struct {
	t     *testing.T
	store *state.Store
	sub   *state.Subscription
	p     *Planner
	index uint64
	now   time.Time
	seq   uint64
	// behave says what becomes of a task that is meant to run; nil: it runs and is healthy.
	behave    func(*job.Task) job.State
	lingers   func(*job.Task) bool // tells whether a task that is to stop has not done so yet; nil: it stops at once
	leasesEnd bool                 // those on lost nodes, by the next act
	cut       map[job.NodeID]bool  // nodes that do nothing and report nothing
	stiff     bool                 // no task can be changed in place
}

func newWorld(t *testing.T, seed uint64) *world { return worldAt(t, seed, state.Rules) }

// worldAt is a world at a level of rules.
func worldAt(t *testing.T, seed uint64, rules int) *world {
	t.Helper()
	w := &world{t: t, store: state.New(), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), cut: map[job.NodeID]bool{}}
	w.apply(state.InitCluster{Cluster: job.Cluster{ID: "c", Pool: netip.MustParsePrefix("10.0.0.0/8"), SubnetBits: 24, Rules: rules}, At: w.now})
	v, sub := w.store.Subscribe(4096)
	w.sub = sub
	t.Cleanup(sub.Close)
	w.p = New(v)
	w.p.NewID = SeededIDs([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	return w
}

func (w *world) tryApply(c state.Command) state.Result {
	w.t.Helper()
	raw, err := state.Encode(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.index++
	r := w.store.Apply(w.index, raw)
	for w.sub != nil {
		select {
		case b, ok := <-w.sub.C:
			if !ok {
				w.t.Fatal(w.sub.Err())
			}
			w.p.Update(b)
			continue
		default:
		}
		break
	}
	return r
}

func (w *world) apply(c state.Command) state.Result {
	w.t.Helper()
	r := w.tryApply(c)
	if r.Err != nil {
		w.t.Fatalf("%T: %v", c, r.Err)
	}
	return r
}

func (w *world) node(name string, f ...func(*job.Node)) job.NodeID {
	w.t.Helper()
	n := job.Node{ID: job.NodeID("id-" + name), Name: name, Capacity: job.Resources{NanoCPUs: 4e9, MemoryBytes: 4 << 30, PIDs: 4096}, Rules: state.Rules}
	for _, g := range f {
		g(&n)
	}
	w.apply(state.PutNode{Node: n, At: w.now})
	return n.ID
}

func label(k, v string) func(*job.Node) {
	return func(n *job.Node) { n.Labels = map[string]string{k: v} }
}

func memory(mib int64) func(*job.Node) {
	return func(n *job.Node) { n.Capacity.MemoryBytes = mib << 20 }
}

func svc(name string, replicas int, f ...func(*job.Service)) job.Service {
	s := job.Service{Name: name, Replicas: replicas, Image: name}
	for _, g := range f {
		g(&s)
	}
	return s
}

func wantMemory(mib int64) func(*job.Service) {
	return func(s *job.Service) { s.Reservations.MemoryBytes = mib << 20 }
}

func global(s *job.Service) { s.Mode, s.Replicas = job.Global, 0 }

func (w *world) submit(name string, ss ...job.Service) *job.Job {
	w.t.Helper()
	return w.apply(state.PutJob{Spec: job.Spec{Name: name, Services: ss}, At: w.now}).Value.(*job.Job)
}

// plan makes and applies one plan; refusals are a failure, because nothing changes between the two.
func (w *world) plan() (state.Plan, Next) {
	w.t.Helper()
	pl, next := w.p.Plan(w.now, 0)
	if pl.Empty() {
		return pl, next
	}
	if res := w.apply(pl).Value.(*state.PlanResult); len(res.Refused) > 0 {
		w.t.Fatalf("refused: %+v", res.Refused)
	}
	return pl, next
}

// act lets all reachable nodes do one step for each of their tasks, and tells whether anything happened.
func (w *world) act() bool {
	w.t.Helper()
	did := w.fence()
	for _, n := range w.store.View().Nodes() {
		if w.cut[n.ID] {
			continue
		}
		var sts []job.Status
		for _, k := range w.store.View().TasksOfNode(n.ID) {
			if st := w.step(k); st != nil {
				sts = append(sts, *st)
			}
		}
		if len(sts) > 0 {
			w.apply(state.Report{Node: n.ID, Statuses: sts, At: w.now})
			did = true
		}
	}
	return did
}

func (w *world) step(k *job.Task) *job.Status {
	old := w.store.View().Status(k.ID)
	if old != nil && old.State.Terminal() {
		return nil
	}
	want := job.Running
	if w.behave != nil {
		want = w.behave(k)
	}
	if k.Desired != job.DesiredRun {
		if w.lingers != nil && w.lingers(k) {
			return nil
		}
		want = job.Complete
	}
	if k.Desired == job.DesiredRun && k.Wait != job.WaitNone && want == job.Running {
		want = job.Created
	}
	if want == job.Placed || (old != nil && old.State == want && old.Tuned == k.Tuned) || old != nil && old.Untuned == k.Tuned && k.Tuned > 0 && old.State == want {
		return nil
	}
	w.seq++
	st := &job.Status{Task: k.ID, Seq: w.seq, State: want, At: map[job.State]time.Time{want: w.now}, Tuned: k.Tuned}
	if w.stiff && k.Tuned > 0 {
		st.Tuned, st.Untuned, st.Refusal = 0, k.Tuned, "it uses more than that"
	}
	if want == job.Failed {
		one := 1
		st.ExitCode = &one
	}
	return st
}

// settle runs planner and nodes until nothing happens any more.
func (w *world) settle() {
	w.t.Helper()
	for i := 0; ; i++ {
		if i > 2000 {
			w.t.Fatalf("did not settle: %s", w.dump())
		}
		pl, next := w.plan()
		did := w.act()
		if !pl.Empty() || did || next.Dirty {
			continue
		}
		if next.At.IsZero() {
			return
		}
		w.now = next.At
		// Only time may help now; a wait that leads to nothing ends it.
		if pl, next := w.plan(); pl.Empty() && next.At.IsZero() {
			return
		}
	}
}

func (w *world) dump() string {
	out := ""
	v := w.store.View()
	for _, n := range v.Nodes() {
		out += fmt.Sprintf("\n node %s %s drained=%v", n.Name, n.State, n.Drained)
	}
	for _, k := range v.Tasks() {
		out += fmt.Sprintf("\n %s/%s %s on %s want %s%s is %v (%.6s; %s; %s)", k.Job, k.Name(), k.ID, k.Node, k.Desired, k.Wait, v.Status(k.ID), string(k.Digest), k.Cause, k.StopCause)
	}
	for _, r := range v.Rollouts("") {
		out += fmt.Sprintf("\n rollout %s/%s %+v", r.Job, r.Service, *r)
	}
	for _, b := range v.Blocked("") {
		out += fmt.Sprintf("\n blocked %s/%s %d: %s", b.Job, b.Service, b.Slots, b.Reason)
	}
	return out
}

// running lists live tasks meant to run of a service.
func (w *world) running(jobName, service string) (out []*job.Task) {
	v := w.store.View()
	for _, k := range v.TasksOfService(jobName, service) {
		if st := v.Status(k.ID); k.Desired == job.DesiredRun && (st == nil || !st.State.Terminal()) {
			out = append(out, k)
		}
	}
	return out
}

func (w *world) perNode(jobName, service string) map[job.NodeID]int {
	m := map[job.NodeID]int{}
	for _, k := range w.running(jobName, service) {
		m[k.Node]++
	}
	return m
}

func (w *world) blocked(jobName, service string) string {
	for _, b := range w.store.View().Blocked(jobName) {
		if b.Service == service {
			return fmt.Sprintf("%d: %s", b.Slots, b.Reason)
		}
	}
	return ""
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }
