package node

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/scheduler"
	"shoal/consensus/state"
	"shoal/node/api"
)

// Jobs lists all jobs with their tallies.
func (n *Node) Jobs(context.Context) (api.JobList, error) {
	v := n.state.View()
	list := api.JobList{Meta: api.Meta{Index: v.Index()}, Jobs: []api.JobSummary{}}
	for _, j := range v.Jobs() {
		want, ready := tally(v, j)
		batches, runs := batchesOf(v, j)
		list.Jobs = append(list.Jobs, api.JobSummary{
			Batches: batches, Runs: runs,
			Name: j.Name, Version: j.Version, Stopped: j.Stopped, Services: len(j.Spec.Services), Want: want, Ready: ready, Updated: j.Updated,
		})
	}
	return list, nil
}

// Job tells one job.
func (n *Node) Job(_ context.Context, name string, versions bool) (api.JobDetail, error) {
	v := n.state.View()
	j := v.Job(name)
	if j == nil {
		return api.JobDetail{}, noSuchJob(name)
	}
	d := api.JobDetail{Meta: api.Meta{Index: v.Index()}, Job: *j, Blocked: blockedOf(v, name), Rollouts: rolloutsOf(v, name), Runs: runsOf(v, name)}
	if versions {
		for _, old := range v.JobVersions(name) {
			d.Versions = append(d.Versions, *old)
		}
	}
	return d, nil
}

func noSuchJob(name string) error {
	return job.Errorf(job.NotFound, "job %q: there is none; `shoal ps` lists them", name)
}

func blockedOf(v *state.View, name string) []job.Blocked {
	var out []job.Blocked
	for _, b := range v.Blocked(name) {
		out = append(out, *b)
	}
	return out
}

func rolloutsOf(v *state.View, name string) []job.Rollout {
	var out []job.Rollout
	for _, r := range v.Rollouts(name) {
		out = append(out, *r)
	}
	return out
}

// tally counts the tasks that a job is meant to have, and those of its present version that serve (or, meant to run
// once, have completed).
func tally(v *state.View, j *job.Job) (want, ready int) {
	if j.Stopped {
		return 0, 0
	}
	for i := range j.Spec.Services {
		w, r := tallyService(v, j, &j.Spec.Services[i])
		want, ready = want+w, ready+r
	}
	return want, ready
}

func tallyService(v *state.View, j *job.Job, s *job.Service) (want, ready int) {
	if s.IsBatch() {
		return tallyBatch(v, j, s)
	}
	digest, live := s.Digest(), 0
	for _, t := range v.TasksOfService(j.Name, s.Name) {
		if t.Desired != job.DesiredRun || t.Digest != digest || t.Renew {
			continue
		}
		live++
		st := v.Status(t.ID)
		node := v.Node(t.Node)
		done := st != nil && st.State == job.Complete && s.Restart.Policy != job.RestartAny
		if done || st.Ready() && node != nil && node.State == job.NodeReady {
			ready++
		}
	}
	if !s.Mode.PerNode() {
		return s.Replicas, ready
	}
	for _, b := range v.Blocked(j.Name) {
		if b.Service == s.Name {
			live += b.Slots
		}
	}
	return max(live, 1), ready // before the first plan nothing is placed, which is not the same as done
}

// Tasks lists tasks; with After it first waits for the state to pass that index.
func (n *Node) Tasks(ctx context.Context, q api.TaskQuery) (api.TaskList, error) {
	if q.After > 0 && q.Wait > 0 {
		wait, cancel := context.WithTimeout(ctx, q.Wait)
		_ = n.state.WaitIndex(wait, q.After+1) // no change in time: the same state again is the answer
		cancel()
	}
	v := n.state.View()
	if q.Job != "" && v.Job(q.Job) == nil && len(v.TasksOfJob(q.Job)) == 0 {
		return api.TaskList{}, noSuchJob(q.Job)
	}
	list := api.TaskList{Meta: api.Meta{Index: v.Index()}, Tasks: []api.Task{}, Blocked: blockedOf(v, q.Job), Rollouts: rolloutsOf(v, q.Job)}
	withBatches(v, q, &list)
	for _, t := range tasksFor(v, q) {
		if view := viewTask(v, t); q.All || t.Desired == job.DesiredRun && shownTask(v, t) || !view.State().Terminal() {
			list.Tasks = append(list.Tasks, view)
		}
	}
	slices.SortStableFunc(list.Tasks, func(a, b api.Task) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Name, b.Name), -cmp.Compare(a.Index, b.Index))
	})
	for _, j := range v.Jobs() {
		if q.Job == "" || q.Job == j.Name {
			want, ready := tally(v, j)
			list.Want, list.Ready = list.Want+want, list.Ready+ready
		}
	}
	return list, nil
}

func tasksFor(v *state.View, q api.TaskQuery) []*job.Task {
	var tasks []*job.Task
	switch {
	case q.Job != "" && q.Service != "":
		tasks = v.TasksOfService(q.Job, q.Service)
	case q.Job != "":
		tasks = v.TasksOfJob(q.Job)
	case q.Node != "":
		tasks = v.TasksOfNode(q.Node)
	default:
		tasks = v.Tasks()
	}
	return slices.DeleteFunc(slices.Clone(tasks), func(t *job.Task) bool {
		return q.Service != "" && t.Service != q.Service || q.Node != "" && t.Node != q.Node
	})
}

func viewTask(v *state.View, t *job.Task) api.Task {
	view := api.Task{Task: *t, Name: t.Name(), NodeName: string(t.Node), Status: v.Status(t.ID)}
	if node := v.Node(t.Node); node != nil {
		view.NodeName, view.NodeState = node.Name, node.State
		if t.Slot == 0 {
			view.Name = t.Service + "." + node.Name
		}
	}
	view.Ready = t.Desired == job.DesiredRun && view.NodeState == job.NodeReady && view.Status.Ready()
	return view
}

// Task finds one task.
func (n *Node) Task(_ context.Context, ref string) (api.Task, error) {
	v := n.state.View()
	t, err := findTask(v, ref)
	if err != nil {
		return api.Task{}, err
	}
	return viewTask(v, t), nil
}

// findTask takes an id or a unique prefix of one, "job/service.slot", or "service.slot" if only one job has such a one.
// Of a slot's tasks the one that is meant to run counts, else the newest.
func findTask(v *state.View, ref string) (*job.Task, error) {
	if !strings.ContainsAny(ref, "/.") {
		return v.TaskByPrefix(ref)
	}
	jobName, name, scoped := strings.Cut(ref, "/")
	tasks := v.Tasks()
	if scoped {
		tasks = v.TasksOfJob(jobName)
	} else {
		name = ref
	}
	var best *job.Task
	for _, t := range tasks {
		if t.Name() != name && viewTask(v, t).Name != name {
			continue
		}
		if best != nil && best.Job != t.Job {
			return nil, job.Errorf(job.Conflict, "task %q: both job %s and job %s have one; say %s/%s", ref, best.Job, t.Job, best.Job, ref)
		}
		if best == nil || rank(v, t) > rank(v, best) || rank(v, t) == rank(v, best) && t.Index > best.Index {
			best = t
		}
	}
	if best == nil {
		return nil, job.Errorf(job.NotFound, "task %q: there is none; `shoal ps` lists them", ref)
	}
	return best, nil
}

// rank tells which task of a slot people mean by its name: in a hand-over the one that serves.
func rank(v *state.View, t *job.Task) int {
	switch {
	case t.Desired != job.DesiredRun:
		return 0
	case v.Status(t.ID).Ready():
		return 2
	}
	return 1
}

// Nodes lists the nodes with their roles and load.
func (n *Node) Nodes(context.Context) (api.NodeList, error) {
	v := n.state.View()
	list := api.NodeList{Meta: api.Meta{Index: v.Index()}, Nodes: []api.NodeView{}}
	roles, voters := map[job.NodeID]string{}, 0
	holders, err := n.raft.Holders()
	if err != nil {
		return list, err
	}
	for _, h := range holders {
		if o := v.Node(h.ID); o != nil && o.LogLife != h.Life {
			continue // of a log that it has no more
		}
		roles[h.ID] = "standby"
		if h.Voter {
			roles[h.ID] = "voter"
			voters++
		}
	}
	leader, _ := n.raft.Leader()
	flapping := scheduler.Flapping(v, n.wall())
	for _, node := range v.Nodes() {
		view := api.NodeView{Node: *node, Flapping: flapping[node.ID], Leader: node.ID == leader, Role: cmp.Or(roles[node.ID], "worker"), Gossip: "unknown"}
		if m, ok := n.pool.Member(string(node.ID)); ok {
			view.Gossip = m.State.String()
		}
		for _, t := range v.TasksOfNode(node.ID) {
			if t.Desired != job.DesiredRun {
				continue
			}
			view.Tasks++
			if s := v.Service(t.Digest); s != nil {
				d := s.Demand()
				view.Used.NanoCPUs += d.NanoCPUs
				view.Used.MemoryBytes += d.MemoryBytes
				view.Used.PIDs += d.PIDs
			}
		}
		list.Nodes = append(list.Nodes, view)
	}
	if voters == 1 {
		list.Warning = "one node holds the vote: if it is lost, nothing can be changed or moved until it is back; a third node makes the cluster highly available"
	}
	return list, nil
}

// Events emits the kept events and, when asked, follows.
func (n *Node) Events(ctx context.Context, q api.EventQuery, emit func(job.Event) error) error {
	last := q.After
	for {
		v := n.state.View()
		for _, e := range v.Events(state.EventFilter{Job: q.Job, Task: q.Task, Since: last}) {
			if err := emit(*e); err != nil {
				return err
			}
		}
		last = max(last, v.Index())
		if !q.Follow {
			return nil
		}
		if err := n.state.WaitIndex(ctx, last+1); err != nil {
			return nil // the follower went away
		}
	}
}

// Members is this node's view of the gossip.
func (n *Node) Members(context.Context) (api.MemberList, error) {
	list := api.MemberList{Node: n.id, Members: []api.Member{}}
	for _, m := range n.pool.Members() {
		list.Members = append(list.Members, api.Member{ID: job.NodeID(m.ID), Name: m.Name, Addr: m.Addr, State: m.State.String(), Since: m.Since})
	}
	return list, nil
}

// Status is how this node sees itself.
func (n *Node) Status(context.Context) (api.Status, error) {
	addr, leader, _, ok := n.Leader()
	s := api.Status{
		Version: n.cfg.Version, Cluster: n.member.Cluster, Node: n.id, Name: n.cfg.Name, Addr: n.cfg.Advertise.String(),
		Leader: leader, LogHolder: n.HasState(), Index: n.state.View().Index(), Ready: ok && n.fed.Load() != nil,
	}
	switch {
	case !ok:
		s.Message = "no leader is known"
	case !s.Ready:
		s.Message = "waiting for the first word from " + addr
	}
	return s, nil
}

// sinceStep is the time between two steps; clocks of different machines may disagree, so never negative.
func sinceStep(prev, at time.Time) time.Duration {
	if prev.IsZero() || at.Before(prev) {
		return 0
	}
	return at.Sub(prev)
}
