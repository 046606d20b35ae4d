package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// info is what placing a service asks, by its digest.
type info struct {
	spec   *job.Service
	demand job.Resources
	ports  []job.Port
	// local: it keeps data in named volumes, so its slots stay where they are.
	local   bool
	volumes []string
	// shapeOf is what shape gives; "": not asked for yet.
	shapeOf job.Digest
}

func newInfo(s *job.Service) *info {
	i := &info{spec: s, demand: s.Demand(), ports: state.PublishedPorts(s), volumes: s.NamedVolumes()}
	i.local = len(i.volumes) > 0
	return i
}

// jobState is a job with all services that it has or that still have tasks.
type jobState struct {
	name     string
	job      *job.Job // nil: removed
	services map[string]*service
}

// service is one service with its slots.
type service struct {
	job    *jobState
	name   string
	spec   *job.Service // nil: nothing of it is meant to run
	digest job.Digest
	info   *info
	class  *class
	cause  string // of first placements: submitted, scaled
	// together are services of the job whose nodes it shares slot by slot; followers those that share its own.
	together, followers []*service

	runs    []*job.Run // of a batch, all that are kept, by number
	scaled  *job.AutoscaleState
	rollout *job.Rollout // of the present content; nil: it was never changed
	former  *info        // what slots keep that no canary has taken; nil: no canaries wait

	slots map[slotID]*slot
	count map[job.NodeID]int // tasks that have not ended, by node
	sets  [phases]map[*slot]struct{}
	dirty map[*slot]struct{}

	inGroup   map[*group]int // tasks that have not ended, by group of the class grouped as of its epoch groupedAt
	grouped   *class
	groupedAt uint64

	// withSpent are slots with tasks that are only to be put to rest (spent.go).
	withSpent map[*slot]struct{}
	all       bool // all slots are dirty

	// Sums over wanted slots, for those that depend on it.
	wanted, started, ready, completed int
	failed                            int // wanted slots with a failure that counts in the rollout

	failures map[job.NodeID][]time.Time // of tasks of it, by node, oldest first; see penalty

	blocked *job.Blocked // as the state has it
	queued  bool
	cut     int
	tries   int // plans with something of it since something of it changed
}

// slotID is a number, or for a global service a node.
type slotID struct {
	n    int
	node job.NodeID
}

// slot is the place for one task.
type slot struct {
	id    slotID
	tasks []*task // by age, all that the state has
	phase phase
	since time.Time // when the phase with these tasks was first seen; zero: not looked at yet
	last  *task     // the newest task then
	sum   sum       // what it adds to the service's sums
}

type sum struct{ wanted, started, ready, completed, failed bool }

// task is a task with its status and what it asks.
type task struct {
	*job.Task
	st   *job.Status
	info *info // nil if the state did not have the service
	// hasImage: it is counted among those whose node has their image.
	hasImage bool
	slot     *slot
	svc      *service
}

func (t *task) ended() bool { return t.st != nil && t.st.State.Terminal() }
func (t *task) state() job.State {
	if t.st == nil {
		return job.Placed
	}
	return t.st.State
}

// Update takes in what one command changed. Batches up to the planner's index are ignored.
func (p *Planner) Update(b state.Batch) {
	if b.Index <= p.index {
		return
	}
	p.index = b.Index
	// What is new of services first: a rollout of the same command may name one as what was before.
	for _, c := range b.Changes {
		if is, ok := c.After.(*job.Service); ok && is != nil {
			if d := is.Digest(); p.infos[d] == nil {
				p.infos[d] = newInfo(is)
			}
		}
	}
	for _, c := range b.Changes {
		p.change(c)
	}
}

func (p *Planner) change(c state.Change) {
	switch c.Table {
	case state.TableCluster:
		if is, ok := c.After.(*job.Cluster); ok && is != nil {
			p.putCluster(is)
		}
	case state.TableNodes:
		was, _ := c.Before.(*job.Node)
		is, _ := c.After.(*job.Node)
		p.putNode(was, is)
	case state.TableJobs:
		if is, ok := c.After.(*job.Job); ok && is != nil {
			p.putJob(is.Name, is)
		} else if was, ok := c.Before.(*job.Job); ok {
			p.putJob(was.Name, nil)
		}
	case state.TableServices:
		if is, ok := c.After.(*job.Service); ok && is != nil {
			break // see Update
		}
		if was, ok := c.Before.(*job.Service); ok {
			delete(p.infos, was.Digest())
		}
	case state.TableTasks:
		if is, ok := c.After.(*job.Task); ok && is != nil {
			var st *job.Status
			if t := p.tasks[is.ID]; t != nil {
				st = t.st
			}
			p.putTask(is, st)
		} else if was, ok := c.Before.(*job.Task); ok {
			p.dropTask(was.ID)
		}
	case state.TableStatuses:
		if is, ok := c.After.(*job.Status); ok && is != nil {
			if t := p.tasks[is.Task]; t != nil {
				p.putTask(t.Task, is)
			}
		}
	case state.TableHomes:
		was, _ := c.Before.(*job.VolumeHome)
		is, _ := c.After.(*job.VolumeHome)
		p.putHome(was, is)
	case state.TableBlocked:
		if is, ok := c.After.(*job.Blocked); ok && is != nil {
			p.service(is.Job, is.Service).blocked = is
		} else if was, ok := c.Before.(*job.Blocked); ok {
			s := p.service(was.Job, was.Service)
			s.blocked = nil
			p.forget(s)
		}
	case state.TableAutoscales:
		if is, ok := c.After.(*job.AutoscaleState); ok && is != nil {
			s := p.service(is.Job, is.Service)
			s.scaled = is
			s.noteCause()
		} else if was, ok := c.Before.(*job.AutoscaleState); ok {
			p.service(was.Job, was.Service).scaled = nil
		}
	case state.TableRuns:
		was, _ := c.Before.(*job.Run)
		is, _ := c.After.(*job.Run)
		p.putRun(was, is)
	case state.TableRollouts:
		if is, ok := c.After.(*job.Rollout); ok && is != nil {
			p.putRollout(p.service(is.Job, is.Service), is)
		} else if was, ok := c.Before.(*job.Rollout); ok {
			p.putRollout(p.service(was.Job, was.Service), nil)
		}
	}
}

// putRollout takes in how a service's update comes along: what its slots need depends on it.
func (p *Planner) putRollout(s *service, r *job.Rollout) {
	s.rollout, s.all, s.tries = r, true, 0
	s.former = p.formerOf(r)
	p.mark(s)
	p.markDependents(s)
}

// service finds a service's index, making it when it is new.
func (p *Planner) service(jobName, name string) *service {
	j := p.jobs[jobName]
	if j == nil {
		j = &jobState{name: jobName, services: map[string]*service{}}
		p.jobs[jobName] = j
	}
	s := j.services[name]
	if s == nil {
		s = &service{job: j, name: name, slots: map[slotID]*slot{}, count: map[job.NodeID]int{}, dirty: map[*slot]struct{}{}}
		j.services[name] = s
	}
	return s
}

// forget drops the index of a service of which nothing is left.
func (p *Planner) forget(s *service) {
	if s.spec != nil || len(s.slots) > 0 || s.blocked != nil || s.queued {
		return
	}
	if s.job.job != nil && s.job.job.Spec.Service(s.name) != nil {
		return // stopped
	}
	delete(p.wakes, s)
	delete(p.starved, s)
	delete(p.promised, s)
	delete(p.following, s)
	delete(s.job.services, s.name)
	if len(s.job.services) == 0 && s.job.job == nil {
		delete(p.jobs, s.job.name)
	}
}

// putJob takes in a job's new content, nil when it was removed. Only services that changed are looked at again.
func (p *Planner) putJob(name string, j *job.Job) {
	js := p.jobs[name]
	if js == nil {
		js = &jobState{name: name, services: map[string]*service{}}
		p.jobs[name] = js
	}
	js.job = j
	seen := map[string]bool{}
	if j != nil {
		for i := range j.Spec.Services {
			spec := &j.Spec.Services[i]
			seen[spec.Name] = true
			if j.Stopped {
				p.setSpec(p.service(name, spec.Name), nil)
			} else {
				p.setSpec(p.service(name, spec.Name), spec)
			}
		}
	}
	for _, sn := range slices.Sorted(maps.Keys(js.services)) {
		if !seen[sn] {
			p.setSpec(js.services[sn], nil)
		}
	}
	js.setTogether()
	p.noteFollowing(js)
	if j == nil && len(js.services) == 0 {
		delete(p.jobs, name)
	}
}

func (p *Planner) setSpec(s *service, spec *job.Service) {
	if spec == nil {
		if s.spec != nil {
			p.dropClass(s)
			p.link(s, s.spec, nil)
			s.spec, s.info, s.digest = nil, nil, ""
			delete(p.globals, s)
		}
		s.all = true
		p.mark(s)
		return
	}
	d := spec.Digest()
	s.cause = "submitted"
	if s.spec != nil && s.digest == d {
		if s.spec.Replicas == spec.Replicas {
			p.freed = p.freed || s.spec.PriorityOf() != spec.PriorityOf()
			s.spec = spec
			p.classify(s, spec)
			p.mark(s) // how it is updated may differ
			return
		}
		s.cause = "scaled"
	}
	if s.digest != d {
		if p.infos[d] == nil {
			p.infos[d] = newInfo(spec)
		}
		s.digest, s.info = d, p.infos[d]
	}
	p.classify(s, spec)
	p.link(s, s.spec, spec)
	s.spec, s.tries = spec, 0
	s.noteCause()
	delete(p.globals, s)
	if spec.Mode.PerNode() {
		p.globals[s] = struct{}{}
	}
	s.all = true
	p.mark(s)
	p.markDependents(s)
}

// noteCause has tasks say why the service scaled by itself.
func (s *service) noteCause() {
	if s.scaled != nil && s.spec != nil && s.spec.Autoscale != nil && s.scaled.To == s.spec.Replicas && s.scaled.To > s.scaled.From {
		s.cause = s.scaled.Cause
	}
}

// markDependents has the services that wait for s looked at.
func (p *Planner) markDependents(s *service) {
	for _, o := range s.job.services {
		if o.spec == nil || len(o.sets[missing])+len(o.sets[outdated]) == 0 {
			continue
		}
		for _, d := range o.spec.DependsOn {
			if d.Service == s.name {
				p.mark(o)
			}
		}
	}
}

// putTask takes in a new task, or a task's or its status' change.
func (p *Planner) putTask(k *job.Task, st *job.Status) {
	t := p.tasks[k.ID]
	if t == nil {
		s := p.service(k.Job, k.Service)
		t = &task{Task: k, st: st, info: p.infos[k.Digest], svc: s, slot: s.slot(slotIDOf(k))}
		p.tasks[k.ID] = t
		t.slot.tasks = append(t.slot.tasks, t)
		slices.SortFunc(t.slot.tasks, func(a, b *task) int {
			return cmp.Or(cmp.Compare(a.Index, b.Index), strings.Compare(string(a.ID), string(b.ID)))
		})
		if n := p.nodes[k.Node]; n != nil {
			n.tasks[t] = struct{}{}
		}
		if t.weighs() {
			p.claim(p.nodes[k.Node], s, t.info, k)
			p.wakeLinked(s)
		}
		if t.ended() {
			p.noteFailure(t)
		}
		p.noteImage(t)
		p.touch(s, t.slot)
		return
	}
	was := t.ended()
	p.rewrite(t, k, st)
	if !was && t.ended() {
		p.noteFailure(t)
	}
	p.noteImage(t)
	p.touch(t.svc, t.slot)
}

func slotIDOf(k *job.Task) slotID {
	if k.Slot == 0 {
		return slotID{node: k.Node}
	}
	return slotID{n: k.Slot}
}

func (p *Planner) dropTask(id job.TaskID) {
	t := p.tasks[id]
	if t == nil {
		return
	}
	if t.weighs() {
		p.unclaim(t, t.info)
	}
	p.dropImage(t)
	delete(p.tasks, id)
	if n := p.nodes[t.Node]; n != nil {
		delete(n.tasks, t)
	}
	t.slot.tasks = slices.DeleteFunc(t.slot.tasks, func(o *task) bool { return o == t })
	p.touch(t.svc, t.slot)
}

// touch has one slot looked at by the next plan.
func (p *Planner) touch(s *service, sl *slot) {
	s.dirty[sl] = struct{}{}
	s.tries = 0
	p.mark(s)
	if len(s.followers) > 0 {
		p.touchFollowers(s, sl.id)
	}
}

func (s *service) slot(id slotID) *slot {
	sl := s.slots[id]
	if sl == nil {
		sl = &slot{id: id}
		s.slots[id] = sl
	}
	return sl
}

func (p *Planner) unclaim(t *task, i *info) {
	n := p.nodes[t.Node]
	if n == nil {
		n = &node{n: &job.Node{ID: t.Node}} // removed: only the service's count is left to correct
	}
	p.release(n, t.svc, i, t.Task)
	p.freed = true
}

// claim and release keep what is used on a node and by whom.
func (p *Planner) claim(n *node, s *service, i *info, k *job.Task) {
	s.count[k.Node]++
	if n != nil {
		s.countIn(n, 1)
		n.add(i, k.Generic, 1)
	}
}

func (p *Planner) release(n *node, s *service, i *info, k *job.Task) {
	if s.count[n.n.ID]--; s.count[n.n.ID] <= 0 {
		delete(s.count, n.n.ID)
	}
	s.countIn(n, -1)
	n.add(i, k.Generic, -1)
}
