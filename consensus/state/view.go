package state

import (
	"encoding/binary"
	"sort"
	"strings"

	"github.com/hashicorp/go-memdb"

	"shoal/consensus/job"
)

// View is all tables at one index. It never changes, costs nothing to take, and is safe for concurrent use. What it
// returns is shared: copy before you change it. Getters of one thing return nil when there is none, unless they say
// otherwise; lists are nil when empty.
type View struct {
	txn   *memdb.Txn
	index uint64
}

// Index is the raft index of the last command that this view contains.
func (v *View) Index() uint64 { return v.index }

// Cluster is nil before InitCluster.
func (v *View) Cluster() *job.Cluster {
	return first[job.Cluster](v.txn, TableCluster, "id", []byte{0})
}

// Node finds a node by its id.
func (v *View) Node(id job.NodeID) *job.Node {
	return first[job.Node](v.txn, TableNodes, "id", strKey(string(id)))
}

// NodeByName finds a node by its name.
func (v *View) NodeByName(name string) *job.Node {
	return first[job.Node](v.txn, TableNodes, "name", strKey(name))
}

// Nodes lists all nodes by name.
func (v *View) Nodes() []*job.Node { return all[job.Node](v.txn, TableNodes, "name", nil) }

// Job finds a job by its name.
func (v *View) Job(name string) *job.Job { return first[job.Job](v.txn, TableJobs, "id", strKey(name)) }

// Jobs lists all jobs by name.
func (v *View) Jobs() []*job.Job { return all[job.Job](v.txn, TableJobs, "id", nil) }

// JobVersions lists the last KeepVersions versions of a job, oldest first; the last one is the job itself.
func (v *View) JobVersions(name string) []*job.Job {
	return all[job.Job](v.txn, TableVersions, "id", strKey(name))
}

// Service finds what a digest stands for: there for every task and every kept job version.
func (v *View) Service(d job.Digest) *job.Service {
	if row := first[serviceRow](v.txn, TableServices, "id", []byte(d)); row != nil {
		return row.Service
	}
	return nil
}

// Services calls f with every content of a service that anything refers to: a job, a version of one, a task or a rollout.
func (v *View) Services(f func(job.Digest, *job.Service)) {
	each(v.txn, TableServices, "id", nil, func(r *serviceRow) bool {
		f(r.Digest, r.Service)
		return true
	})
}

// Task finds a task by its whole id.
func (v *View) Task(id job.TaskID) *job.Task {
	return first[job.Task](v.txn, TableTasks, "id", []byte(id))
}

// TaskByPrefix finds the one task whose id begins so, an error of kind job.NotFound if there is none and job.Conflict if
// there are several.
func (v *View) TaskByPrefix(prefix string) (*job.Task, error) {
	if prefix == "" {
		return nil, job.Errorf(job.Invalid, "find task: give at least one character of its id")
	}
	var found []*job.Task
	each(v.txn, TableTasks, "id", []byte(prefix), func(t *job.Task) bool {
		found = append(found, t)
		return string(t.ID) != prefix && len(found) < 3
	})
	switch {
	case len(found) == 0:
		return nil, job.Errorf(job.NotFound, "no task %q: see shoal ps -a", prefix)
	case string(found[len(found)-1].ID) == prefix || len(found) == 1:
		return found[len(found)-1], nil
	}
	ids := make([]string, len(found))
	for i, t := range found {
		ids[i] = string(t.ID)
	}
	return nil, job.Errorf(job.Conflict, "several tasks begin with %q (%s …): type more of the id", prefix, strings.Join(ids, ", "))
}

// Tasks lists all tasks by job, service, slot and age: O(all).
func (v *View) Tasks() []*job.Task { return all[job.Task](v.txn, TableTasks, "slot", nil) }

// TasksOfJob lists a job's tasks by service, slot and age, also after the job was removed until they ended.
func (v *View) TasksOfJob(name string) []*job.Task {
	return all[job.Task](v.txn, TableTasks, "slot", strKey(name))
}

// TasksOfService lists a service's tasks by slot and age.
func (v *View) TasksOfService(jobName, service string) []*job.Task {
	return all[job.Task](v.txn, TableTasks, "slot", strKey(jobName, service))
}

// TasksOfSlot lists what is and was in a slot, oldest first; node counts only for slot 0.
func (v *View) TasksOfSlot(jobName, service string, slot int, node job.NodeID) []*job.Task {
	return all[job.Task](v.txn, TableTasks, "slot", slotKey(jobName, service, slot, node))
}

// TasksOfNode lists a node's tasks by id.
func (v *View) TasksOfNode(id job.NodeID) []*job.Task {
	return all[job.Task](v.txn, TableTasks, "node", strKey(string(id)))
}

// Status is nil as long as the owner has not reported.
func (v *View) Status(id job.TaskID) *job.Status {
	return first[job.Status](v.txn, TableStatuses, "id", []byte(id))
}

// Blocked lists why services of a job could not be placed, by service; of all jobs when name is "".
func (v *View) Blocked(name string) []*job.Blocked {
	var prefix []byte
	if name != "" {
		prefix = strKey(name)
	}
	return all[job.Blocked](v.txn, TableBlocked, "id", prefix)
}

// Rollouts lists how services of a job come along to their present content, by service; of all jobs when name is "".
func (v *View) Rollouts(name string) []*job.Rollout {
	var prefix []byte
	if name != "" {
		prefix = strKey(name)
	}
	return all[job.Rollout](v.txn, TableRollouts, "id", prefix)
}

// Rollout is nil for a service whose content was never changed.
func (v *View) Rollout(jobName, service string) *job.Rollout {
	return first[job.Rollout](v.txn, TableRollouts, "id", strKey(jobName, service))
}

// Tokens lists the join tokens by id.
func (v *View) Tokens() []*job.Token { return all[job.Token](v.txn, TableTokens, "id", nil) }

// Token finds a join token.
func (v *View) Token(id string) *job.Token {
	return first[job.Token](v.txn, TableTokens, "id", strKey(id))
}

// Image tells what a full image name means in the cluster, nil if nobody loaded one under it.
func (v *View) Image(name string) *job.ImageName {
	return first[job.ImageName](v.txn, TableImages, "id", strKey(name))
}

// Images lists all names that were loaded, sorted.
func (v *View) Images() []*job.ImageName { return all[job.ImageName](v.txn, TableImages, "id", nil) }

// EventFilter selects events; zero fields select all. A task's filter also selects events of its node that explain it
// (they carry no task) when Node is given too: set both to have either.
type EventFilter struct {
	Job   string
	Task  job.TaskID
	Node  job.NodeID
	Since uint64 // only events of an index > Since
	Limit int    // the newest so many; 0: all that are kept
}

func (f EventFilter) match(e *job.Event) bool {
	if f.Job != "" && e.Job != f.Job {
		return false
	}
	if f.Task != "" && f.Node != "" {
		return e.Task == f.Task || (e.Node == f.Node && e.Task == "")
	}
	return (f.Task == "" || e.Task == f.Task) && (f.Node == "" || e.Node == f.Node)
}

// Events lists the kept events that match, oldest first.
func (v *View) Events(f EventFilter) []*job.Event {
	from := binary.BigEndian.AppendUint64(nil, f.Since+1)
	it, err := v.txn.LowerBound(string(TableEvents), "id", from)
	if err != nil {
		panic("state: read events: " + err.Error())
	}
	var out []*job.Event
	for o := it.Next(); o != nil; o = it.Next() {
		if e := o.(*eventRow).Event; f.match(e) {
			out = append(out, e)
		}
	}
	if f.Limit > 0 && len(out) > f.Limit {
		out = out[len(out)-f.Limit:]
	}
	return out
}

// Ready lists the tasks of a service that can serve, by slot: meant to run, running and not unwell.
func (v *View) Ready(jobName, service string) []*job.Task {
	var out []*job.Task
	for _, t := range v.TasksOfService(jobName, service) {
		if t.Desired == job.DesiredRun && v.Status(t.ID).Ready() {
			out = append(out, t)
		}
	}
	return out
}

// sortedKeys is for deterministic walks over maps.
func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
