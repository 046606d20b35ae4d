package state

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"shoal/consensus/job"
)

var seedFlag = flag.Uint64("seed", 0, "run the property test with this seed only")

// TestReplicasAgreeAndInvariantsHold applies random commands to two stores, one of which is saved and restored now and
// then and one of which is followed by a subscriber.
func TestReplicasAgreeAndInvariantsHold(t *testing.T) {
	seeds := []uint64{1, 2}
	for range 6 {
		seeds = append(seeds, rand.Uint64())
	}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		if !t.Run("", func(t *testing.T) { randomRun(t, seed) }) {
			t.Fatalf("again with: go test ./consensus/state -run TestReplicasAgree -seed %d", seed)
		}
	}
}

func randomRun(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	l := newLog(t).cluster()
	v, sub := l.s.Subscribe(10_000)
	defer sub.Close()
	seen := newMirror(v)
	other := New()
	other.Apply(1, l.raw[0])
	for n := range 300 {
		a := l.try(randomCommand(r, l.s.View(), n))
		b := other.Apply(l.index, l.raw[len(l.raw)-1])
		if fmt.Sprint(a.Err) != fmt.Sprint(b.Err) || a.Unchanged != b.Unchanged || !sameValue(a.Value, b.Value) {
			t.Fatalf("index %d: results differ: %+v and %+v", l.index, a, b)
		}
		if r.IntN(40) == 0 {
			var buf bytes.Buffer
			if err := other.View().Persist(&buf); err != nil {
				t.Fatal(err)
			}
			other = New()
			if err := other.Restore(&buf); err != nil {
				t.Fatal(err)
			}
		}
		if n%10 == 0 && l.s.View().Hash() != other.View().Hash() {
			t.Fatalf("index %d: replicas differ", l.index)
		}
		if why := broken(l.s) + overfull(l.s); why != "" {
			t.Fatalf("index %d after %T: %s", l.index, a.Value, why)
		}
	}
	for len(sub.C) > 0 {
		seen.take(t, <-sub.C)
	}
	if want := newMirror(l.s.View()); !reflect.DeepEqual(seen.rows, want.rows) {
		t.Error("a subscriber does not see what the view holds")
	}
}

// sameValue compares results by what they say, not by which pointers they hold.
func sameValue(a, b any) bool {
	m, err := codecs()
	if err != nil {
		panic(err)
	}
	x, _ := m.enc.Marshal(a)
	y, _ := m.enc.Marshal(b)
	return bytes.Equal(x, y)
}

// broken names an invariant that does not hold.
func broken(s *Store) string {
	v := s.View()
	fresh := derive(v)
	for id, u := range s.derived.use {
		f := fresh.use[id]
		if f == nil {
			f = &nodeUse{}
		}
		if u.demand != f.demand || len(u.ports) != len(f.ports) {
			return fmt.Sprintf("use of %s is %+v, want %+v", id, u, f)
		}
	}
	if s.derived.events != fresh.events || s.derived.keys != fresh.keys || len(s.derived.services) != len(fresh.services) || !reflect.DeepEqual(s.derived.subnets, fresh.subnets) {
		return fmt.Sprintf("derived %d events %d keys %d services, want %d %d %d", s.derived.events, s.derived.keys, len(s.derived.services), fresh.events, fresh.keys, len(fresh.services))
	}
	refs := map[job.Digest]int{}
	live, paired := map[string]*job.Task{}, map[string]bool{}
	dead := map[string]int{}
	for _, k := range v.Tasks() {
		refs[k.Digest]++
		st := v.Status(k.ID)
		ended := st != nil && st.State.Terminal()
		switch {
		case k.Desired == job.DesiredRun && !ended:
			// Tasks come by age: a second one must be a hand-over from the first.
			o := live[slotOf(k)]
			if o != nil && (k.Replaces != o.ID || k.Digest == o.Digest && !o.Renew && o.Tuned == 0 || paired[slotOf(k)]) {
				return "two live tasks in slot " + k.Name()
			}
			live[slotOf(k)], paired[slotOf(k)] = k, o != nil
		case k.Desired != job.DesiredRun && ended:
			if dead[slotOf(k)]++; dead[slotOf(k)] > KeepDead {
				return "too many dead tasks in slot " + k.Name()
			}
			if v.Job(k.Job) == nil {
				return "a dead task of a removed job is kept: " + string(k.ID)
			}
		}
		if v.Service(k.Digest) == nil {
			return "no service for task " + string(k.ID)
		}
	}
	for _, r := range v.Rollouts("") {
		if j := v.Job(r.Job); j == nil || j.Spec.Service(r.Service) == nil || j.Spec.Service(r.Service).Digest() != r.Digest || r.Version > j.Version {
			return fmt.Sprintf("a rollout of what the job has not: %+v", r)
		}
	}
	for _, j := range v.Jobs() {
		vs := v.JobVersions(j.Name)
		if len(vs) == 0 || len(vs) > KeepVersions || !sameValue(vs[len(vs)-1], j) {
			return "versions of " + j.Name
		}
		for _, o := range vs {
			for i := range o.Spec.Services {
				refs[o.Spec.Services[i].Digest()]++
			}
		}
	}
	for _, row := range all[serviceRow](v.txn, TableServices, "id", nil) {
		if row.Refs != refs[row.Digest] || row.Refs == 0 {
			return fmt.Sprintf("service %s has %d references, want %d", row.Digest, row.Refs, refs[row.Digest])
		}
		delete(refs, row.Digest)
	}
	if len(refs) > 0 {
		return fmt.Sprintf("services missing: %v", refs)
	}
	for _, st := range all[job.Status](v.txn, TableStatuses, "id", nil) {
		if v.Task(st.Task) == nil {
			return "status without task " + string(st.Task)
		}
	}
	return ""
}

// overfull names a node on which more is placed than it has; right only while no capacity shrinks.
func overfull(s *Store) string {
	for id, u := range s.derived.use {
		if n := s.View().Node(id); n != nil && u.demand.MemoryBytes > n.Capacity.MemoryBytes {
			return "node " + n.Name + " is overfull"
		}
	}
	return ""
}

// mirror is what a subscriber that keeps everything would hold.
type mirror struct{ rows map[Table][]any }

func newMirror(v *View) *mirror {
	m := &mirror{map[Table][]any{}}
	for _, n := range v.Nodes() {
		m.add(TableNodes, n)
	}
	for _, j := range v.Jobs() {
		m.add(TableJobs, j)
	}
	for _, k := range v.Tasks() {
		m.add(TableTasks, k)
		if st := v.Status(k.ID); st != nil {
			m.add(TableStatuses, st)
		}
	}
	for _, b := range v.Blocked("") {
		m.add(TableBlocked, b)
	}
	for _, e := range v.Events(EventFilter{}) {
		m.add(TableEvents, e)
	}
	m.sort()
	return m
}

func (m *mirror) add(t Table, v any) { m.rows[t] = append(m.rows[t], v) }

func (m *mirror) sort() {
	for t, rows := range m.rows {
		slices.SortFunc(rows, func(a, b any) int { return bytes.Compare(fmt.Appendf(nil, "%p", a), fmt.Appendf(nil, "%p", b)) })
		if len(rows) == 0 {
			delete(m.rows, t)
		}
	}
}

func (m *mirror) take(t *testing.T, b Batch) {
	for _, c := range b.Changes {
		switch c.Table {
		case TableNodes, TableJobs, TableTasks, TableStatuses, TableBlocked, TableEvents:
		default:
			continue
		}
		if c.Before != nil {
			i := slices.Index(m.rows[c.Table], c.Before)
			if i < 0 {
				t.Fatalf("index %d: %s changed from a row that was never shown", b.Index, c.Table)
			}
			m.rows[c.Table] = slices.Delete(m.rows[c.Table], i, i+1)
		}
		if c.After != nil {
			m.add(c.Table, c.After)
		}
	}
	m.sort()
}
