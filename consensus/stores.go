package consensus

import (
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/hashicorp/raft"
)

// guardedStores passes every call of raft through the disk's guard.
func guardedStores(s Stores, d *disk) Stores {
	return Stores{
		Log:       guardedLog{s.Log, d},
		Stable:    guardedStable{s.Stable, d},
		Snapshots: guardedSnapshots{s.Snapshots, d},
	}
}

type guardedLog struct {
	raft.LogStore
	disk *disk
}

func isLogNotFound(err error) bool { return errors.Is(err, raft.ErrLogNotFound) }

func never(error) bool { return false }

func (g guardedLog) FirstIndex() (n uint64, err error) {
	err = g.disk.read("read the first index", never, func() error { n, err = g.LogStore.FirstIndex(); return err })
	return n, err
}

func (g guardedLog) LastIndex() (n uint64, err error) {
	err = g.disk.read("read the last index", never, func() error { n, err = g.LogStore.LastIndex(); return err })
	return n, err
}

// GetLog ends the calling goroutine when the store cannot be read: raft would panic. See stop.
func (g guardedLog) GetLog(index uint64, log *raft.Log) error {
	err := g.disk.read("read an entry", isLogNotFound, func() error { return g.LogStore.GetLog(index, log) })
	if err != nil && !isLogNotFound(err) {
		stop()
	}
	return err
}

func (g guardedLog) StoreLog(log *raft.Log) error {
	return g.StoreLogs([]*raft.Log{log})
}

func (g guardedLog) StoreLogs(logs []*raft.Log) error {
	return g.disk.write("append to the log", func() error { return g.LogStore.StoreLogs(logs) })
}

func (g guardedLog) DeleteRange(from, to uint64) error {
	return g.disk.write("cut the log", func() error { return g.LogStore.DeleteRange(from, to) })
}

type guardedStable struct {
	raft.StableStore
	disk *disk
}

// isKeyNotFound goes by the text, as raft does.
func isKeyNotFound(err error) bool { return err.Error() == "not found" }

// Set ends the calling goroutine when the store cannot be written: see stop.
func (g guardedStable) Set(key, val []byte) error {
	err := g.disk.write("store the vote", func() error { return g.StableStore.Set(key, val) })
	if err != nil {
		stop()
	}
	return err
}

// SetUint64 is like Set.
func (g guardedStable) SetUint64(key []byte, val uint64) error {
	err := g.disk.write("store the term", func() error { return g.StableStore.SetUint64(key, val) })
	if err != nil {
		stop()
	}
	return err
}

func (g guardedStable) Get(key []byte) (val []byte, err error) {
	err = g.disk.read("read the vote", isKeyNotFound, func() error { val, err = g.StableStore.Get(key); return err })
	return val, err
}

func (g guardedStable) GetUint64(key []byte) (n uint64, err error) {
	err = g.disk.read("read the term", isKeyNotFound, func() error { n, err = g.StableStore.GetUint64(key); return err })
	return n, err
}

// stop ends a goroutine of raft in an orderly way, where returning an error would make raft panic and take the process
// and its unrelated work with it. Raft's deferred calls run: they refuse what was under way and acknowledge nothing. By
// then the disk has failed or the log is closing, so the Log is ending too, and Run says why.
func stop() { goruntime.Goexit() }

type guardedSnapshots struct {
	raft.SnapshotStore
	disk *disk
}

// Create refuses a snapshot on a full disk, which raft survives: it tries again later, and cuts no log until then.
func (g guardedSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, cIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if err := g.disk.refusal(); err != nil {
		return nil, err
	}
	sink, err := g.SnapshotStore.Create(v, index, term, c, cIndex, t)
	if err != nil {
		return nil, g.judge("create a snapshot", err)
	}
	return guardedSink{sink, g}, nil
}

func (g guardedSnapshots) judge(op string, err error) error {
	if err == nil {
		return g.disk.refusal()
	}
	if isFull(err) {
		return &DiskError{Dir: g.disk.dir, Op: op, Full: true, Err: err}
	}
	return g.disk.fail(op, err)
}

type guardedSink struct {
	raft.SnapshotSink
	guard guardedSnapshots
}

func (s guardedSink) Write(p []byte) (int, error) {
	n, err := s.SnapshotSink.Write(p)
	if err != nil {
		err = s.guard.judge("write a snapshot", err)
	}
	return n, err
}

func (s guardedSink) Close() error {
	return s.guard.judge("finish a snapshot", s.SnapshotSink.Close())
}

// Cancel drops the snapshot. The file store keeps what it cannot finish, which on a full disk is what fills it.
func (s guardedSink) Cancel() error {
	err := s.SnapshotSink.Cancel()
	if dir := s.guard.disk.dir; err != nil && dir != "" {
		err = os.RemoveAll(filepath.Join(dir, snapshotsDir, s.ID()+tmpSuffix))
	}
	return err
}
