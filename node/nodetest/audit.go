package nodetest

import (
	"fmt"
	"strings"
	"sync"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node"
)

// auditor reads along with every copy of the log and checks each change by rules of its own: that copies agree, and that
// nothing is placed where it must not be. It knows the tables, and nothing of how state or scheduler decide.
type auditor struct {
	mu         sync.Mutex
	hashes     map[uint64]hashed
	violations []string
	downs      map[uint64]job.NodeID // index -> node that was declared down
}

type hashed struct {
	hash [32]byte
	by   string
}

func newAuditor() *auditor {
	return &auditor{hashes: map[uint64]hashed{}, downs: map[uint64]job.NodeID{}}
}

func (a *auditor) accuse(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.violations) < 20 {
		a.violations = append(a.violations, fmt.Sprintf(format, args...))
	}
}

// verdict is what was found, "" if nothing.
func (a *auditor) verdict() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.violations, "\n")
}

// agree compares a node's state with what any node had at the same index.
func (a *auditor) agree(m *Machine) {
	v := m.node.State().View()
	if m.audited == v {
		return
	}
	m.audited = v
	h := hashed{v.Hash(), m.Name}
	a.mu.Lock()
	known, ok := a.hashes[v.Index()]
	if !ok {
		a.hashes[v.Index()] = h
	}
	a.mu.Unlock()
	if ok && known.hash != h.hash {
		a.accuse("at index %d %s and %s have different states", v.Index(), known.by, m.Name)
	}
}

// follow audits an agent's copy until the returned function is called.
func (a *auditor) follow(m *Machine, n *node.Node) (stop func()) {
	var mu sync.Mutex
	var sub *state.Subscription
	stopped := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			mu.Lock()
			if stopped {
				mu.Unlock()
				return
			}
			var view *state.View
			view, sub = n.State().Subscribe(1 << 16)
			mine := sub
			mu.Unlock()
			s := shadowOf(view)
			for b := range mine.C {
				s.take(a, m.Name, b)
			}
		}
	}()
	return func() {
		mu.Lock()
		stopped = true
		if sub != nil {
			sub.Close()
		}
		mu.Unlock()
		<-done
	}
}

// shadow is the tables as a copy's changes tell them.
type shadow struct {
	nodes    map[job.NodeID]*job.Node
	jobs     map[string]*job.Job
	tasks    map[job.TaskID]*job.Task
	statuses map[job.TaskID]*job.Status
	demands  map[job.Digest]*job.Service // by what jobs said they want
	shut     map[job.NodeID]bool         // nodes that get no new tasks because they came and went too often
}

func shadowOf(v *state.View) *shadow {
	s := &shadow{
		nodes: map[job.NodeID]*job.Node{}, jobs: map[string]*job.Job{}, tasks: map[job.TaskID]*job.Task{},
		statuses: map[job.TaskID]*job.Status{}, demands: map[job.Digest]*job.Service{},
	}
	for _, n := range v.Nodes() {
		s.nodes[n.ID] = n
	}
	for _, j := range v.Jobs() {
		s.jobs[j.Name] = j
		s.learn(j)
	}
	for _, t := range v.Tasks() {
		s.tasks[t.ID] = t
		if sv := v.Service(t.Digest); sv != nil {
			s.demands[t.Digest] = sv
		}
		if st := v.Status(t.ID); st != nil {
			s.statuses[t.ID] = st
		}
	}
	return s
}

func (s *shadow) learn(j *job.Job) {
	for i := range j.Spec.Services {
		s.demands[j.Spec.Services[i].Digest()] = &j.Spec.Services[i]
	}
}

func put[K comparable, V any](m map[K]*V, key func(*V) K, c state.Change) {
	if v, ok := c.After.(*V); ok && v != nil {
		m[key(v)] = v
	} else if v, ok := c.Before.(*V); ok && v != nil {
		delete(m, key(v))
	}
}

func (s *shadow) take(a *auditor, who string, b state.Batch) {
	var placed []*job.Task
	for _, c := range b.Changes {
		switch c.Table {
		case state.TableNodes:
			was, _ := c.Before.(*job.Node)
			is, _ := c.After.(*job.Node)
			if was != nil && is != nil && was.State == job.NodeReady && is.State == job.NodeDown {
				a.mu.Lock()
				a.downs[b.Index] = is.ID
				a.mu.Unlock()
			}
			put(s.nodes, func(n *job.Node) job.NodeID { return n.ID }, c)
		case state.TableJobs:
			put(s.jobs, func(j *job.Job) string { return j.Name }, c)
			if j, ok := c.After.(*job.Job); ok && j != nil {
				s.learn(j)
			}
		case state.TableTasks:
			put(s.tasks, func(t *job.Task) job.TaskID { return t.ID }, c)
			if t, ok := c.After.(*job.Task); ok && t != nil && c.Before == nil {
				placed = append(placed, t)
			}
			s.forward(a, who, b.Index, c)
		case state.TableStatuses:
			put(s.statuses, func(st *job.Status) job.TaskID { return st.Task }, c)
		}
	}
	for _, t := range placed {
		if why := s.misplaced(t); why != "" {
			a.accuse("%s at index %d: task %s of %s/%s was placed on node %.6s: %s", who, b.Index, t.ID, t.Job, t.Name(), t.Node, why)
		}
	}
}

// forward checks that what is wanted of a task never goes back.
func (s *shadow) forward(a *auditor, who string, index uint64, c state.Change) {
	was, _ := c.Before.(*job.Task)
	is, _ := c.After.(*job.Task)
	order := map[job.Desired]int{job.DesiredRun: 0, job.DesiredStop: 1, job.DesiredLost: 2}
	if was != nil && is != nil && order[is.Desired] < order[was.Desired] {
		a.accuse("%s at index %d: task %s was to %s and now is to %s", who, index, is.ID, was.Desired, is.Desired)
	}
}

func (s *shadow) ended(id job.TaskID) bool {
	st := s.statuses[id]
	return st != nil && st.State.Terminal()
}

// misplaced says what was wrong with a placement, by the tables as they were just after it.
func (s *shadow) misplaced(t *job.Task) string {
	n, j := s.nodes[t.Node], s.jobs[t.Job]
	switch {
	case n == nil:
		return "there is no such node"
	case n.State != job.NodeReady:
		return "the node is " + string(n.State)
	case n.Drained:
		return "the node is draining"
	case j == nil:
		return "there is no such job"
	case j.Stopped:
		return "the job is stopped"
	}
	sv := j.Spec.Service(t.Service)
	switch {
	case sv == nil:
		return "the job has no such service"
	case sv.IsBatch():
		return s.misplacedRun(t)
	case sv.Digest() != t.Digest:
		return "it runs another version than the job's"
	case !admits(sv, n):
		return fmt.Sprintf("the node breaks one of %v", sv.Constraints)
	case sv.Mode == job.Global && t.Slot != 0, sv.Mode != job.Global && (t.Slot < 1 || t.Slot > sv.Replicas):
		return "there is no such slot"
	}
	for _, o := range s.tasks {
		sameSlot := o.Job == t.Job && o.Service == t.Service && o.Slot == t.Slot && (o.Slot != 0 || o.Node == t.Node)
		handOver := t.Replaces == o.ID && (o.Digest != t.Digest || o.Renew || o.Tuned > 0 || t.Move && o.Node != t.Node) // the former task stays until the new one has proven itself
		if o.ID != t.ID && sameSlot && o.Desired == job.DesiredRun && !s.ended(o.ID) && !handOver {
			return fmt.Sprintf("its slot has task %s", o.ID)
		}
	}
	return s.overfull(n)
}

// misplacedRun says what was wrong with a placement for a run of a batch: no slot of a run has two tasks.
func (s *shadow) misplacedRun(t *job.Task) string {
	for _, o := range s.tasks {
		same := o.Job == t.Job && o.Service == t.Service && o.Run == t.Run && o.Slot == t.Slot && (o.Slot != 0 || o.Node == t.Node)
		if same && o.ID != t.ID && o.Desired == job.DesiredRun && !s.ended(o.ID) {
			return fmt.Sprintf("its slot of run %d has task %s", t.Run, o.ID)
		}
	}
	return s.overfull(s.nodes[t.Node])
}

// overfull says what of a node is claimed twice, counting every task that has not ended but for those that wait for the
// room of another one.
func (s *shadow) overfull(n *job.Node) string {
	var used job.Resources
	ports := map[string]job.TaskID{}
	for _, t := range s.tasks {
		sv := s.demands[t.Digest]
		if t.Node != n.ID || s.ended(t.ID) || sv == nil || t.Wait == job.WaitRoom {
			continue
		}
		d := sv.Demand()
		used.NanoCPUs += d.NanoCPUs
		used.MemoryBytes += d.MemoryBytes
		used.PIDs += d.PIDs
		for _, p := range sv.Ports {
			if p.Published == 0 {
				continue
			}
			key := fmt.Sprintf("%d/%s", p.Published, p.Protocol)
			if o := ports[key]; o != "" {
				return fmt.Sprintf("port %s is claimed by %s and %s", key, o, t.ID)
			}
			ports[key] = t.ID
		}
	}
	if used.NanoCPUs > n.Capacity.NanoCPUs || used.MemoryBytes > n.Capacity.MemoryBytes || used.PIDs > n.Capacity.PIDs {
		return fmt.Sprintf("the node has %+v and %+v are claimed", n.Capacity, used)
	}
	return ""
}

// admits is a service's constraints, read anew.
func admits(s *job.Service, n *job.Node) bool {
	for _, c := range s.Constraints {
		var v string
		switch {
		case c.Key == "node.id":
			v = string(n.ID)
		case c.Key == "node.hostname":
			v = n.Name
		default:
			v = n.Labels[strings.TrimPrefix(c.Key, "node.labels.")]
		}
		if (v == c.Value) != (c.Op == "==") {
			return false
		}
	}
	return true
}

// tooMuch tells whether one more task of a service cannot be on a node.
func (s *shadow) tooMuch(sv *job.Service, n *job.Node) bool {
	if n.State != job.NodeReady || n.Drained || s.shut[n.ID] || !admits(sv, n) {
		return true
	}
	id := job.TaskID("one-more")
	s.tasks[id] = &job.Task{ID: id, Node: n.ID, Digest: sv.Digest()}
	s.demands[sv.Digest()] = sv
	defer delete(s.tasks, id)
	return s.overfull(n) != ""
}
