package state

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/go-memdb"

	"shoal/consensus/job"
)

// rowsOf reads all rows of a table that is saved.
func rowsOf(t *testing.T, v *View, table Table) (rows []any) {
	t.Helper()
	it, err := v.txn.Get(string(table), "id_prefix", []byte(nil))
	if err != nil {
		t.Fatal(err)
	}
	for o := it.Next(); o != nil; o = it.Next() {
		rows = append(rows, o)
	}
	return rows
}

// shuffled writes a view's rows into another database in another order, and takes some out and in again on the way.
func shuffled(t *testing.T, v *View, r *rand.Rand) *View {
	t.Helper()
	db, err := memdb.NewMemDB(schema())
	if err != nil {
		t.Fatal(err)
	}
	w := db.Txn(true)
	for _, k := range r.Perm(len(snapshotTables)) {
		table := snapshotTables[k].table
		rows := rowsOf(t, v, table)
		for _, i := range r.Perm(len(rows)) {
			must(t, w.Insert(string(table), rows[i]))
		}
		for _, row := range rows {
			if r.IntN(2) == 0 {
				must(t, w.Delete(string(table), row))
				must(t, w.Insert(string(table), row))
			}
		}
	}
	w.Commit()
	return &View{txn: db.Txn(false), index: v.index}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStatesThatAreEqualHaveEqualHashesHoweverTheyCameAbout(t *testing.T) {
	s, _ := scriptedSnapshot(t)
	v := s.View()
	for seed := range uint64(10) {
		other := shuffled(t, v, rand.New(rand.NewPCG(seed, 1)))
		if other.Hash() != v.Hash() {
			t.Errorf("seed %d: equal states have different hashes", seed)
		}
		for table, h := range other.TableHashes() {
			if h != v.TableHashes()[table] {
				t.Errorf("seed %d: equal tables %s have different hashes", seed, table)
			}
		}
	}
}

func TestADifferenceInAnyTableChangesTheHash(t *testing.T) {
	s, _ := scriptedSnapshot(t)
	v := s.View()
	// The script leaves no row in these.
	w := s.db.Txn(true)
	for table, row := range map[Table]any{
		TableBlocked: &job.Blocked{Job: "j", Service: "s"}, TableImages: &job.ImageName{Name: "i"}, TableRollouts: &job.Rollout{Job: "j", Service: "s"},
		TableHomes: &job.VolumeHome{Volume: "v", Node: "n"}, TableRuns: &job.Run{Job: "j", Service: "s", Seq: 1},
		TableSchedules: &job.ScheduleState{Job: "j", Service: "s"}, TableAutoscales: &job.AutoscaleState{Job: "j", Service: "s"},
	} {
		must(t, w.Insert(string(table), row))
	}
	w.Commit()
	v = &View{txn: s.db.Txn(false), index: v.index}
	for _, st := range snapshotTables {
		rows := rowsOf(t, v, st.table)
		if len(rows) == 0 {
			t.Errorf("table %s has no row to take away", st.table)
		}
		for _, row := range rows {
			w := s.db.Txn(true)
			must(t, w.Delete(string(st.table), row))
			other := &View{txn: w, index: v.index}
			if other.Hash() == v.Hash() {
				t.Errorf("%s: the hash does not see that %+v is missing", st.table, row)
			}
			for table, h := range other.TableHashes() {
				if same := h == v.TableHashes()[table]; same == (table == st.table) {
					t.Errorf("a row of %s is missing, and the hash of %s is the same: %v", st.table, table, same)
				}
			}
			w.Abort()
		}
	}
}

func TestViewAtIsTheStateAtThatIndex(t *testing.T) {
	l := newLog(t).cluster()
	put := func(name string) { l.do(PutNode{Node: aNode(name), At: t0}) }
	put("a") // 2
	type answer struct {
		v   *View
		err error
	}
	ask := func(index uint64, limit time.Duration) <-chan answer {
		ch := make(chan answer, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			v, err := l.s.ViewAt(ctx, index)
			ch <- answer{v, err}
		}()
		return ch
	}
	waiting := func(n int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			l.s.mu.Lock()
			k := len(l.s.looks)
			l.s.mu.Unlock()
			if k == n {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d wait, want %d", k, n)
			}
		}
	}
	if a := <-ask(2, time.Minute); a.err != nil || a.v.Index() != 2 {
		t.Errorf("the present index: %+v", a)
	}
	if a := <-ask(1, time.Minute); !errors.Is(a.err, job.Conflict) {
		t.Errorf("an index that has passed: %+v", a)
	}
	// Indexes 5 to 9 are no commands: the state at 7 is that at 4.
	three, seven, ten := ask(3, time.Minute), ask(7, time.Minute), ask(10, time.Minute)
	waiting(3)
	put("b")
	put("c")
	waiting(2)
	l.index = 9
	put("d")
	for _, x := range []struct {
		ch          <-chan answer
		index       uint64
		nodes       int
		description string
	}{{three, 3, 2, "3"}, {seven, 4, 3, "7"}, {ten, 10, 4, "10"}} {
		if a := <-x.ch; a.err != nil || a.v.Index() != x.index || len(a.v.Nodes()) != x.nodes {
			t.Errorf("at %s: index %d with %d nodes (%v), want %d with %d", x.description, a.v.Index(), len(a.v.Nodes()), a.err, x.index, x.nodes)
		}
	}
	if a := <-ask(20, 10*time.Millisecond); a.err != nil || a.v.Index() != 10 {
		t.Errorf("an index that does not come: %+v", a)
	}
	waiting(0)
	// A snapshot that skips the index leaves nothing to tell.
	late := ask(12, time.Minute)
	waiting(1)
	var b bytes.Buffer
	must(t, (&View{txn: l.s.View().txn, index: 15}).Persist(&b))
	must(t, l.s.Restore(&b))
	if a := <-late; !errors.Is(a.err, job.Conflict) {
		t.Errorf("an index that a snapshot skipped: %+v", a)
	}
	for range maxLooks {
		ask(100, time.Second)
	}
	waiting(maxLooks)
	if a := <-ask(100, time.Second); !errors.Is(a.err, job.Unavailable) {
		t.Errorf("one too many: %+v", a)
	}
}
