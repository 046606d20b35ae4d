package state

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/go-memdb"

	"shoal/consensus/job"
)

// Table names a table in changes and snapshots.
type Table string

// The tables, and what Change.Before and After point to.
const (
	TableCluster  Table = "cluster"  // job.Cluster, at most one
	TableNodes    Table = "nodes"    // job.Node
	TableJobs     Table = "jobs"     // job.Job
	TableVersions Table = "versions" // job.Job, the last KeepVersions of each
	TableServices Table = "services" // job.Service, by digest
	TableTasks    Table = "tasks"    // job.Task
	TableStatuses Table = "statuses" // job.Status
	TableBlocked  Table = "blocked"  // job.Blocked
	TableTokens   Table = "tokens"   // job.Token
	TableEvents   Table = "events"   // job.Event
	tableKeys     Table = "keys"     // keyRow, never shown
	TableImages   Table = "images"   // job.ImageName
	TableRollouts Table = "rollouts" // job.Rollout
)

// Bounds of what the state keeps.
const (
	KeepVersions = 10     // of each job
	KeepEvents   = 10_000 // of the cluster
	KeepKeys     = 10_000 // idempotency keys
	KeepImages   = 10_000 // names of images
	KeepDead     = 3      // ended tasks of each slot
	MaxMessage   = 512    // bytes of a status message, reason or cause
)

// serviceRow is a service with the number of job versions and tasks that refer to it.
type serviceRow struct {
	Digest  job.Digest   `json:"digest"`
	Service *job.Service `json:"service"`
	Refs    int          `json:"refs"`
}

// eventRow gives events of one index an order.
type eventRow struct {
	Event *job.Event `json:"event"`
	Seq   uint32     `json:"seq"`
}

// keyRow remembers what a submit with an idempotency key gave.
type keyRow struct {
	Key       string `json:"key"`
	Index     uint64 `json:"index"`
	Kind      byte   `json:"kind"`
	Name      string `json:"name"` // of the job or token
	Version   uint64 `json:"version,omitempty"`
	Unchanged bool   `json:"unchanged,omitempty"`
}

// keyOf is a memdb index whose key is computed by a function and given as []byte in queries. Every key of ours contains
// the primary key, so all indexes are unique and one prefix scan finds a group in its order.
type keyOf[T any] func(*T) []byte

func (k keyOf[T]) FromObject(o any) (bool, []byte, error) {
	v, ok := o.(*T)
	if !ok {
		return false, nil, fmt.Errorf("index over %T got %T", v, o)
	}
	return true, k(v), nil
}

func (k keyOf[T]) FromArgs(args ...any) ([]byte, error) {
	if len(args) == 1 {
		if b, ok := args[0].([]byte); ok {
			return b, nil
		}
	}
	return nil, fmt.Errorf("want one []byte, got %v", args)
}

func (k keyOf[T]) PrefixFromArgs(args ...any) ([]byte, error) { return k.FromArgs(args...) }

// Keys of fields are joined with NUL, which no name or id may contain (goodName).

func strKey(parts ...string) []byte {
	n := len(parts)
	for _, p := range parts {
		n += len(p)
	}
	b := make([]byte, 0, n)
	for _, p := range parts {
		b = append(append(b, p...), 0)
	}
	return b
}

func versionKey(j *job.Job) []byte {
	return binary.BigEndian.AppendUint64(strKey(j.Name), j.Version)
}

// taskKey has no terminator, so that a typed prefix finds it.
func taskKey(t *job.Task) []byte { return []byte(t.ID) }

// slotKey is the place that at most one running task may have: a number, or for global services a node.
func slotKey(jobName, service string, slot int, node job.NodeID) []byte {
	b := make([]byte, 0, len(jobName)+len(service)+len(node)+32)
	b = append(append(b, jobName...), 0)
	b = append(append(b, service...), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(slot))
	if slot == 0 {
		b = append(append(b, node...), 0)
	}
	return b
}

func taskSlotKey(t *job.Task) []byte {
	b := slotKey(t.Job, t.Service, t.Slot, t.Node)
	b = binary.BigEndian.AppendUint64(b, t.Index)
	return append(b, t.ID...)
}

func taskNodeKey(t *job.Task) []byte {
	return append(strKey(string(t.Node)), t.ID...)
}

func eventKey(e *eventRow) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 12), e.Event.Index)
	return binary.BigEndian.AppendUint32(b, e.Seq)
}

func keyAge(k *keyRow) []byte {
	return append(binary.BigEndian.AppendUint64(nil, k.Index), k.Key...)
}

func schema() *memdb.DBSchema {
	s := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	add := func(t Table, index string, ix memdb.Indexer) {
		ts := s.Tables[string(t)]
		if ts == nil {
			ts = &memdb.TableSchema{Name: string(t), Indexes: map[string]*memdb.IndexSchema{}}
			s.Tables[string(t)] = ts
		}
		ts.Indexes[index] = &memdb.IndexSchema{Name: index, Unique: true, Indexer: ix}
	}
	add(TableCluster, "id", keyOf[job.Cluster](func(*job.Cluster) []byte { return []byte{0} }))
	add(TableNodes, "id", keyOf[job.Node](func(n *job.Node) []byte { return strKey(string(n.ID)) }))
	add(TableNodes, "name", keyOf[job.Node](func(n *job.Node) []byte { return strKey(n.Name) }))
	add(TableJobs, "id", keyOf[job.Job](func(j *job.Job) []byte { return strKey(j.Name) }))
	add(TableVersions, "id", keyOf[job.Job](versionKey))
	add(TableServices, "id", keyOf[serviceRow](func(s *serviceRow) []byte { return []byte(s.Digest) }))
	add(TableTasks, "id", keyOf[job.Task](taskKey))
	add(TableTasks, "slot", keyOf[job.Task](taskSlotKey))
	add(TableTasks, "node", keyOf[job.Task](taskNodeKey))
	add(TableStatuses, "id", keyOf[job.Status](func(s *job.Status) []byte { return []byte(s.Task) }))
	add(TableBlocked, "id", keyOf[job.Blocked](func(b *job.Blocked) []byte { return strKey(b.Job, b.Service) }))
	add(TableTokens, "id", keyOf[job.Token](func(t *job.Token) []byte { return strKey(t.ID) }))
	add(TableEvents, "id", keyOf[eventRow](eventKey))
	add(tableKeys, "id", keyOf[keyRow](func(k *keyRow) []byte { return strKey(k.Key) }))
	add(tableKeys, "age", keyOf[keyRow](keyAge))
	add(TableRollouts, "id", keyOf[job.Rollout](func(r *job.Rollout) []byte { return strKey(r.Job, r.Service) }))
	add(TableRuns, "id", keyOf[job.Run](runKey))
	add(TableAutoscales, "id", keyOf[job.AutoscaleState](func(a *job.AutoscaleState) []byte { return strKey(a.Job, a.Service) }))
	add(TableSchedules, "id", keyOf[job.ScheduleState](func(s *job.ScheduleState) []byte { return strKey(s.Job, s.Service) }))
	add(TableImages, "id", keyOf[job.ImageName](func(i *job.ImageName) []byte { return strKey(i.Name) }))
	add(TableHomes, "id", keyOf[job.VolumeHome](homeKey))
	add(TableHomes, "age", keyOf[job.VolumeHome](homeAge))
	return s
}

// first finds one row by its exact key, nil if there is none.
func first[T any](t *memdb.Txn, table Table, index string, key []byte) *T {
	o, err := t.First(string(table), index, key)
	if err != nil {
		panic(fmt.Sprintf("state: read %s by %s: %v", table, index, err))
	}
	v, _ := o.(*T)
	return v
}

// each calls f on all rows whose key begins with prefix (nil: all), in key order, until f says false.
func each[T any](t *memdb.Txn, table Table, index string, prefix []byte, f func(*T) bool) {
	it, err := t.Get(string(table), index+"_prefix", prefix)
	if err != nil {
		panic(fmt.Sprintf("state: scan %s by %s: %v", table, index, err))
	}
	for o := it.Next(); o != nil; o = it.Next() {
		if !f(o.(*T)) {
			return
		}
	}
}

// all collects what each visits.
func all[T any](t *memdb.Txn, table Table, index string, prefix []byte) []*T {
	var out []*T
	each(t, table, index, prefix, func(v *T) bool {
		out = append(out, v)
		return true
	})
	return out
}
