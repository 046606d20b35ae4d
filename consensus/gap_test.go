package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"shoal/consensus/state"
	"shoal/runtime/step"
)

// moveOn has a leader go on without somebody, and forget what he would need.
func (c *cluster) moveOn(leader *member) (last uint64) {
	c.t.Helper()
	for i := range 100 {
		last = c.propose(leader, fmt.Sprint("meanwhile ", i))
	}
	c.must(leader.raft.Snapshot().Error())
	return last
}

// back starts a member that crashed.
func (c *cluster) back(m *member) {
	c.t.Helper()
	c.net.cut(m.addr, false)
	c.start(m)
}

// A log-holder that was away for longer than the leader's log reaches back gets a snapshot. It starts again with what it has
// then, wherever it is killed.
func TestASnapshotFromTheLeaderLeavesNoGap(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, net: newMemNet(), logger: quiet(), trailing: 8}
		defer c.close()
		leader := c.add("n0")
		c.must(leader.Bootstrap())
		c.leader()
		away := c.addOn("n1", filepath.Join(root, "raft"))
		c.must(leader.AddStandby(c.ctx(), away.ID(), away.addr))
		for i := range 20 {
			c.agree(c.propose(leader, fmt.Sprint("before ", i)))
		}
		c.crash(away)
		c.moveOn(leader)

		var images []string
		var plans []*step.Plan
		for _, at := range Steps {
			if at == StepApply || at == StepApplied { // the leader passes these too
				continue
			}
			plans = append(plans, &step.Plan{At: at, Act: step.Call, Do: func() error {
				image := filepath.Join(root, fmt.Sprintf("%03d %s", len(images), at))
				images = append(images, image)
				return os.CopyFS(image, os.DirFS(away.dir))
			}})
		}
		disarm := step.Arm(plans...)
		c.back(away)
		c.agree(c.propose(leader, "after"))
		disarm()
		reached := func(at step.Name) bool {
			return slices.ContainsFunc(images, func(image string) bool { return strings.HasSuffix(image, " "+string(at)) })
		}
		if !reached(StepSnapDurable) || !reached(StepAppended) {
			t.Fatalf("no snapshot came, or nothing after it: %v", images)
		}
		last := c.propose(leader, "the last")
		c.agree(last)
		c.crash(away)
		for _, image := range append(images, away.dir) {
			away.dir = image
			c.back(away)
			c.agree(last)
			c.crash(away)
			got, err := audit(filepath.Join(image, logFile))
			if err != nil || got.last != last || got.before != 0 {
				t.Errorf("%s: %+v %v", image, got, err)
			}
		}
	})
}

// TestACompanyThatLaggedStartsAgain has two of three voters get a snapshot, one after the other, and then a power cut.
func TestACompanyThatLaggedStartsAgain(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, net: newMemNet(), logger: quiet(), trailing: 8}
		defer c.close()
		for i := range 3 {
			c.addOn(fmt.Sprint("n", i), filepath.Join(root, fmt.Sprint(i)))
		}
		leader := c.members[0]
		c.must(leader.Bootstrap())
		c.leader()
		for _, m := range c.members[1:] {
			c.must(leader.AddStandby(c.ctx(), m.ID(), m.addr))
			c.must(leader.Promote(c.ctx(), m.ID()))
		}
		for i := range 20 {
			c.agree(c.propose(leader, fmt.Sprint("before ", i)))
		}
		for _, m := range c.members[1:] {
			c.crash(m)
			c.moveOn(leader)
			c.back(m)
			c.agree(c.propose(leader, "back"))
		}
		last := c.propose(leader, "the last")
		c.agree(last)
		for _, m := range c.members {
			c.crash(m)
		}
		for _, m := range c.members {
			c.back(m)
		}
		c.must(c.leader().store.WaitIndex(c.ctx(), last))
		c.agree(c.propose(c.leader(), "all are back"))
	})
}

// gapped makes a raft directory as an earlier shoal left it: entries 1 to 20 and 41 to 50, and a snapshot of 40 or not.
func gapped(t *testing.T, dir string, snapshot bool, write func(path string, entries []*raft.Log)) raft.ServerID {
	t.Helper()
	id, _, err := LoadOrCreateID(dir)
	if err != nil {
		t.Fatal(err)
	}
	stores, files, err := openFiles(dir, raft.ServerID(id), &bridge{out: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	entries := func(from, to uint64) (out []*raft.Log) {
		for i := from; i <= to; i++ {
			out = append(out, &raft.Log{Index: i, Term: 1, Data: fmt.Append(nil, "entry ", i)})
		}
		return out
	}
	err = stores.Log.StoreLogs(entries(1, 20))
	if err == nil && snapshot {
		var sink raft.SnapshotSink
		if sink, err = stores.Snapshots.Create(1, 40, 1, raft.Configuration{}, 1, nil); err == nil {
			err = fsmSnapshot{view: state.New().View()}.Persist(sink)
		}
	}
	if err = errors.Join(err, files.Close()); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, logFile), entries(41, 50))
	return raft.ServerID(id)
}

// writeGap appends as the shoal before this one did.
func writeGap(t *testing.T) func(path string, entries []*raft.Log) {
	return func(path string, entries []*raft.Log) {
		t.Helper()
		s, err := openBolt(path)
		if err != nil {
			t.Fatal(err)
		}
		err = s.update(func(logs, _ *bbolt.Bucket) error {
			for _, e := range entries {
				key, value, err := encodeEntry(e)
				if err = errors.Join(err, logs.Put(key, value)); err != nil {
					return err
				}
			}
			return nil
		})
		if err = errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// writeOldGap appends as a shoal from before there were checksums did.
func writeOldGap(t *testing.T) func(path string, entries []*raft.Log) {
	return func(path string, entries []*raft.Log) {
		t.Helper()
		old, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{NoFreelistSync: true}, MsgpackUseNewTimeFormat: true})
		if err == nil {
			err = errors.Join(old.StoreLogs(entries), old.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAGapThatASnapshotCoversIsClosed(t *testing.T) {
	for name, write := range map[string]func(string, []*raft.Log){"last": writeGap(t), "old": writeOldGap(t)} {
		dir := filepath.Join(t.TempDir(), "raft")
		id := gapped(t, dir, true, write)
		for range 2 {
			stores, files, err := openFiles(dir, id, &bridge{out: quiet()})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			first, _ := stores.Log.FirstIndex()
			last, _ := stores.Log.LastIndex()
			var e raft.Log
			if err := stores.Log.GetLog(41, &e); first != 41 || last != 50 || err != nil || string(e.Data) != "entry 41" {
				t.Errorf("%s: entries %d to %d, %q %v", name, first, last, e.Data, err)
			}
			if err := files.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAGapThatNoSnapshotCoversIsDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	id := gapped(t, dir, false, writeGap(t))
	for range 2 {
		_, _, err := openFiles(dir, id, &bridge{out: quiet()})
		var damage *DamageError
		if !errors.As(err, &damage) || damage.File != filepath.Join(dir, logFile) || !strings.Contains(err.Error(), "entry 20 is followed by entry 41") {
			t.Errorf("it opens with %v", err)
		}
	}

	dir = filepath.Join(t.TempDir(), "raft")
	id = gapped(t, dir, false, func(string, []*raft.Log) {})
	stores, files, err := openFiles(dir, id, &bridge{out: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if err := stores.Log.StoreLog(&raft.Log{Index: 22, Term: 1}); err == nil || !strings.Contains(err.Error(), "entry 20 would be followed by entry 22") {
		t.Errorf("a gap was written: %v", err)
	}
	if last, _ := stores.Log.LastIndex(); last != 20 {
		t.Errorf("the log ends with %d", last)
	}
}

// TestAPageThatLostEntriesIsNoGap takes entries off the end of pages, or all, which a snapshot has: it is damage all the same.
func TestAPageThatLostEntriesIsNoGap(t *testing.T) {
	base := filepath.Join(t.TempDir(), "raft")
	id, _, err := LoadOrCreateID(base)
	if err != nil {
		t.Fatal(err)
	}
	stores, files, err := openFiles(base, raft.ServerID(id), &bridge{out: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(500) {
		if err := stores.Log.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 50)}); err != nil {
			t.Fatal(err)
		}
	}
	sink, err := stores.Snapshots.Create(1, 500, 1, raft.Configuration{}, 1, nil)
	if err == nil {
		err = errors.Join(fsmSnapshot{view: state.New().View()}.Persist(sink), files.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	want, err := readAll(base)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(base, logFile))
	if err != nil {
		t.Fatal(err)
	}
	detected := 0
	for at := 2 * os.Getpagesize(); at < len(file); at += os.Getpagesize() {
		count := binary.LittleEndian.Uint16(file[at+10:])
		if binary.LittleEndian.Uint16(file[at+8:]) != boltLeaf || count < 2 {
			continue
		}
		for _, left := range []uint16{count - 1, 0} {
			dir := filepath.Join(t.TempDir(), "raft")
			if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(file)
			binary.LittleEndian.PutUint16(bad[at+10:], left)
			if err := os.WriteFile(filepath.Join(dir, logFile), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readAll(dir)
			var damage *DamageError
			switch {
			case errors.As(err, &damage):
				detected++
			case err != nil || !maps.Equal(got, want): // else the page is a free one
				t.Errorf("page %d, %d of %d left: %v; %s entries", at/os.Getpagesize(), left, count, err, got["range"])
			}
		}
	}
	if detected < 20 {
		t.Errorf("%d pages with entries", detected)
	}
}
