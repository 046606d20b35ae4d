package state

import (
	"maps"
	"reflect"
	"time"

	"shoal/consensus/job"
)

// SetCluster sets what admins decide about the whole cluster (job.Settings); an empty value puts one back to its default.
// Result.Value is *job.Cluster.
type SetCluster struct {
	Set map[string]string `json:"set"`
	At  time.Time         `json:"at"`
}

// SetOvercommit says how much more than its capacity a node gives away; nil: not more. Result.Value is *job.Node.
type SetOvercommit struct {
	Node       job.NodeID      `json:"node"`
	Overcommit *job.Overcommit `json:"overcommit,omitempty"`
	At         time.Time       `json:"at"`
}

func (t *tx) setCluster(c SetCluster) Result {
	old := t.base.Cluster()
	if old == nil {
		return fail(job.NotFound, "set cluster settings: there is no cluster yet")
	}
	up := *old
	up.Settings = maps.Clone(old.Settings)
	if up.Settings == nil {
		up.Settings = map[string]string{}
	}
	for _, name := range sortedKeys(c.Set) {
		if err := job.CheckSetting(name, c.Set[name]); err != nil {
			return Result{Err: err}
		}
		if c.Set[name] == "" {
			delete(up.Settings, name)
		} else {
			up.Settings[name] = c.Set[name]
		}
	}
	if maps.Equal(up.Settings, old.Settings) {
		return Result{Value: old, Unchanged: true}
	}
	t.insert(TableCluster, &up)
	return Result{Value: &up}
}

func (t *tx) setOvercommit(c SetOvercommit) Result {
	old := t.base.Node(c.Node)
	if old == nil {
		return fail(job.NotFound, "set overcommit: no node %.8s", string(c.Node))
	}
	if err := c.Overcommit.Check(); err != nil {
		return Result{Err: err}
	}
	up := *old
	if up.Overcommit = c.Overcommit; up.Overcommit != nil && *up.Overcommit == (job.Overcommit{}) {
		up.Overcommit = nil
	}
	if reflect.DeepEqual(up.Overcommit, old.Overcommit) {
		return Result{Value: old, Unchanged: true}
	}
	t.insert(TableNodes, &up)
	return Result{Value: &up}
}
