package state

import (
	"encoding/binary"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-memdb"

	"shoal/consensus/job"
)

// tx is one command's work. Reads of tasks and statuses go to the base snapshot under an overlay of what was written,
// because a read inside a memdb write transaction costs the next write a copy of its path.
//
// A command that fails must do so before it writes; abort undoes what it did to derived all the same.
type tx struct {
	s     *Store
	d     *derived
	w     *memdb.Txn
	base  *View
	index uint64
	at    time.Time

	tasks    map[job.TaskID]*job.Task // written; nil: deleted
	statuses map[job.TaskID]*job.Status
	placed   map[string][]*job.Task // by slotKey
	refs     map[job.Digest]int
	services map[job.Digest]*job.Service // new ones
	events   []*eventRow
	seq      uint32
	prune    []string // slotKeys with a newly dead task, in order
	pruneSet map[string]bool
	claims   []claim
	keyAdded bool
	homes    map[string]bool // written, by homeKey
}

type claim struct {
	task *job.Task
	sign int
}

func (s *Store) begin(index uint64) *tx {
	w := s.db.Txn(true)
	w.TrackChanges()
	return &tx{
		s: s, d: s.derived, w: w, base: s.View(), index: index,
		tasks: map[job.TaskID]*job.Task{}, statuses: map[job.TaskID]*job.Status{},
		placed: map[string][]*job.Task{}, refs: map[job.Digest]int{}, services: map[job.Digest]*job.Service{},
		pruneSet: map[string]bool{},
	}
}

func (t *tx) abort() {
	for i := len(t.claims) - 1; i >= 0; i-- {
		t.d.claim(t.claims[i].task, -t.claims[i].sign)
	}
	t.w.Abort()
}

// commit finishes the command: history is trimmed, references are counted, all becomes visible at once.
func (t *tx) commit() []Change {
	t.pruneSlots()
	gone := t.flushRefs()
	t.flushEvents()
	t.trimKeys()
	t.trimHomes()
	changes := t.changes()
	t.w.Commit()
	for _, d := range gone {
		delete(t.d.services, d)
	}
	return changes
}

func (t *tx) insert(table Table, row any) {
	if err := t.w.Insert(string(table), row); err != nil {
		panic("state: insert into " + string(table) + ": " + err.Error())
	}
}

func (t *tx) remove(table Table, row any) {
	if err := t.w.Delete(string(table), row); err != nil && err != memdb.ErrNotFound {
		panic("state: delete from " + string(table) + ": " + err.Error())
	}
}

// event notes a line of history at the command's time.
func (t *tx) event(e job.Event) {
	e.Index = t.index
	if e.Time.IsZero() {
		e.Time = t.at
	}
	e.Message = clip(e.Message)
	t.events = append(t.events, &eventRow{Event: &e, Seq: t.seq})
	t.seq++
}

func (t *tx) flushEvents() {
	if len(t.events) == 0 {
		return
	}
	if n := len(t.events); n > KeepEvents {
		t.events = t.events[n-KeepEvents:]
	}
	excess := t.d.events + len(t.events) - KeepEvents
	if excess > 0 {
		each(t.base.txn, TableEvents, "id", nil, func(e *eventRow) bool {
			t.remove(TableEvents, e)
			t.d.events--
			excess--
			return excess > 0
		})
	}
	for _, e := range t.events {
		t.insert(TableEvents, e)
	}
	t.d.events += len(t.events)
}

// task and status are as this command sees them, nil if there is none.
func (t *tx) task(id job.TaskID) *job.Task {
	if v, ok := t.tasks[id]; ok {
		return v
	}
	return t.base.Task(id)
}

func (t *tx) status(id job.TaskID) *job.Status {
	if v, ok := t.statuses[id]; ok {
		return v
	}
	return t.base.Status(id)
}

// slot lists what this command sees in a slot, oldest first.
func (t *tx) slot(key string) []*job.Task {
	var out []*job.Task
	each(t.base.txn, TableTasks, "slot", []byte(key), func(b *job.Task) bool {
		if v := t.task(b.ID); v != nil {
			out = append(out, v)
		}
		return true
	})
	for _, p := range t.placed[key] {
		if v := t.task(p.ID); v != nil {
			out = append(out, v)
		}
	}
	return out
}

func slotOf(k *job.Task) string { return string(slotKey(k.Job, k.Service, k.Slot, k.Node)) }

// ended tells whether a task has ended: its node has nothing of it any more.
func (t *tx) ended(id job.TaskID) bool {
	st := t.status(id)
	return st != nil && st.State.Terminal()
}

func (t *tx) addTask(k *job.Task) {
	t.tasks[k.ID] = k
	key := slotOf(k)
	t.placed[key] = append(t.placed[key], k)
	t.refs[k.Digest]++
	t.claim(k, 1)
	t.settle(k)
	t.insert(TableTasks, k)
}

// claim counts what a task uses in or out, and remembers it for abort.
func (t *tx) claim(k *job.Task, sign int) {
	t.d.claim(k, sign)
	t.claims = append(t.claims, claim{k, sign})
}

// putTask writes a changed copy of a task that exists.
func (t *tx) putTask(k *job.Task) {
	t.tasks[k.ID] = k
	t.insert(TableTasks, k)
	if k.Desired != job.DesiredRun && t.ended(k.ID) {
		t.pruneLater(k)
	}
}

func (t *tx) putStatus(k *job.Task, st *job.Status) {
	if st.State.Terminal() && !t.ended(k.ID) {
		t.claim(k, -1)
	}
	counts := k.Run != 0 && st.State.Terminal() && !t.ended(k.ID)
	t.statuses[k.ID] = st
	t.insert(TableStatuses, st)
	if counts {
		t.countRun(k, st)
	}
	if k.Desired != job.DesiredRun && st.State.Terminal() {
		t.pruneLater(k)
	}
}

func (t *tx) deleteTask(k *job.Task) {
	if !t.ended(k.ID) {
		t.claim(k, -1)
	}
	if st := t.status(k.ID); st != nil {
		t.remove(TableStatuses, st)
	}
	t.statuses[k.ID] = nil
	t.tasks[k.ID] = nil
	t.refs[k.Digest]--
	t.remove(TableTasks, k)
}

// pruneLater has the slot's dead tasks counted when the command is done.
func (t *tx) pruneLater(k *job.Task) {
	if key := slotOf(k); !t.pruneSet[key] {
		t.pruneSet[key] = true
		t.prune = append(t.prune, key)
	}
}

// pruneSlots keeps the last KeepDead dead tasks of each slot that got a new one, and none where the slot itself is gone.
func (t *tx) pruneSlots() {
	for _, key := range t.prune {
		var dead []*job.Task
		for _, k := range t.slot(key) {
			switch {
			case k.Desired == job.DesiredRun || !t.ended(k.ID):
			case t.slotExists(k):
				dead = append(dead, k)
			default:
				t.deleteTask(k)
			}
		}
		for len(dead) > KeepDead {
			t.deleteTask(dead[0])
			dead = dead[1:]
		}
	}
}

// slotExists tells whether the task's job still has such a slot.
func (t *tx) slotExists(k *job.Task) bool {
	j := first[job.Job](t.w, TableJobs, "id", strKey(k.Job))
	if j == nil {
		return false
	}
	s := j.Spec.Service(k.Service)
	if s == nil {
		return false
	}
	if s.IsBatch() {
		r := t.run(k.Job, k.Service, k.Run)
		return t.isOf(k, r) && !r.Forgotten
	}
	if s.Mode.PerNode() {
		return k.Slot == 0 && first[job.Node](t.w, TableNodes, "id", strKey(string(k.Node))) != nil
	}
	return k.Slot >= 1 && k.Slot <= s.Replicas
}

// useServices counts a job version's references.
func (t *tx) useServices(j *job.Job, delta int) {
	for i := range j.Spec.Services {
		s := &j.Spec.Services[i]
		d := s.Digest()
		t.refs[d] += delta
		if delta > 0 && t.d.services[d] == nil {
			c := s.Content() // what the digest stands for
			t.services[d] = &c
		}
	}
}

// flushRefs writes the reference counts and returns the digests that nothing refers to any more.
func (t *tx) flushRefs() (gone []job.Digest) {
	ds := make([]string, 0, len(t.refs))
	for d, n := range t.refs {
		if n != 0 || t.services[d] != nil {
			ds = append(ds, string(d))
		}
	}
	sort.Strings(ds)
	for _, s := range ds {
		d := job.Digest(s)
		old := first[serviceRow](t.base.txn, TableServices, "id", []byte(d))
		row := &serviceRow{Digest: d, Refs: t.refs[d]}
		if old != nil {
			row.Service, row.Refs = old.Service, old.Refs+row.Refs
		} else if row.Service = t.services[d]; row.Service == nil {
			continue
		}
		if row.Refs <= 0 {
			gone = append(gone, d)
			if old != nil {
				t.remove(TableServices, old)
			}
			continue
		}
		t.insert(TableServices, row)
		if t.d.services[d] == nil {
			t.d.services[d] = newServiceInfo(row.Service)
		}
	}
	return gone
}

// remember keeps what a key gave; recall finds it again.
func (t *tx) remember(key string, kind byte, name string, version uint64, unchanged bool) {
	if key == "" {
		return
	}
	t.insert(tableKeys, &keyRow{Key: key, Index: t.index, Kind: kind, Name: name, Version: version, Unchanged: unchanged})
	t.keyAdded = true
	t.d.keys++
}

func (t *tx) recall(key string, kind byte, name string) (*keyRow, error) {
	if key == "" {
		return nil, nil
	}
	if !goodName(key) {
		return nil, job.Errorf(job.Invalid, "idempotency key of %d bytes: want 1 to %d bytes without NUL", len(key), maxName)
	}
	k := first[keyRow](t.base.txn, tableKeys, "id", strKey(key))
	if k != nil && (k.Kind != kind || k.Name != name) {
		return nil, job.Errorf(job.Conflict, "idempotency key %q was used for another request on %s: use a new key", key, k.Name)
	}
	return k, nil
}

func (t *tx) trimKeys() {
	if !t.keyAdded || t.d.keys <= KeepKeys {
		return
	}
	each(t.base.txn, tableKeys, "age", nil, func(k *keyRow) bool {
		t.remove(tableKeys, k)
		t.d.keys--
		return t.d.keys > KeepKeys
	})
}

// changes turns memdb's into ours: rows become nouns, bookkeeping is left out.
func (t *tx) changes() []Change {
	raw := t.w.Changes()
	out := make([]Change, 0, len(raw))
	for _, c := range raw {
		table := Table(c.Table)
		ch := Change{Table: table, Before: noun(c.Before), After: noun(c.After)}
		if table == tableKeys || (table == TableServices && ch.Before != nil && ch.After != nil) {
			continue
		}
		out = append(out, ch)
	}
	return out
}

func noun(row any) any {
	switch r := row.(type) {
	case *serviceRow:
		return r.Service
	case *eventRow:
		return r.Event
	}
	return row
}

const maxName = 255

// goodName is the least that a key of a table must satisfy; what a proper name is, job's validation says.
func goodName(s string) bool {
	return s != "" && len(s) <= maxName && strings.IndexByte(s, 0) < 0
}

// clip bounds a message without cutting a character in two.
func clip(s string) string {
	if len(s) <= MaxMessage {
		return s
	}
	i := MaxMessage
	for i > MaxMessage-utf8.UTFMax && !utf8.RuneStart(s[i]) {
		i--
	}
	return s[:i]
}

// slotFrom is the key of the first slot above n of a service, for scans of what a scale-down left.
func slotFrom(jobName, service string, n int) []byte {
	return binary.BigEndian.AppendUint32(strKey(jobName, service), uint32(n)+1)
}
