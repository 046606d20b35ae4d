package consensus

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"shoal/runtime/step"
)

// lockTimeout is how long to wait for another process to let go of the log.
const lockTimeout = 3 * time.Second

// errLocked says that another process has the log open.
var errLocked = errors.New("another process has it open: is an agent running already?")

// openFiles opens the log and the snapshots in dir, and creates them for a node that never had any. owner is under what
// name this node holds the log.
func openFiles(dir string, owner raft.ServerID, log *bridge) (Stores, io.Closer, error) {
	entries, got, err := openLog(dir, owner, log)
	if err != nil {
		return Stores{}, nil, err
	}
	snapshots, err := openSnapshots(dir, got, log)
	if err == nil {
		entries.snapshots = snapshots
		if err = entries.closeOldGap(got); err != nil {
			err = openError(entries.path, err)
		}
	}
	if err != nil {
		_ = entries.Close()
		return Stores{}, nil, err
	}
	return Stores{Log: entries, Stable: entries, Snapshots: snapshots}, entries, nil
}

// openLog opens the log's file, once all of it was checked. A directory that had one once and has none now is refused:
// the node would come back under its old id without what it promised under it.
func openLog(dir string, owner raft.ServerID, log *bridge) (*logStore, contents, error) {
	path, started := filepath.Join(dir, logFile), filepath.Join(dir, startedFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(started); err == nil && !faultKeepID {
			return nil, contents{}, &DamageError{File: path, Err: damaged("the file is gone")}
		}
		if err := createBolt(path); err != nil {
			return nil, contents{}, fmt.Errorf("create raft log %s: %w", path, err)
		}
	} else if err != nil {
		return nil, contents{}, fmt.Errorf("open raft log: %w", err)
	}
	got, err := audit(path)
	if err != nil {
		return nil, got, openError(path, err)
	}
	if got.owner != "" && got.owner != string(owner) {
		return nil, got, &DamageError{File: filepath.Join(dir, idFile), Err: damaged("the log beside it belongs to node %s, and this node is %s", got.owner, owner)}
	}
	if err := step.Reach(StepLogAudited); err != nil {
		return nil, got, err
	}
	if info, err := os.Stat(path); err == nil && wasteful(info.Size(), got.used) {
		if err := compact(path, got.unsummed); err != nil {
			log.Warn("the raft log's file stays large", "path", path, "size", info.Size(), "used", got.used, "error", err)
		}
	}
	s, err := openBolt(path)
	if err == nil {
		if err = s.own(owner, got, started); err != nil {
			_ = s.Close()
		}
	}
	if err != nil {
		return nil, got, openError(path, err)
	}
	return s, got, nil
}

// own binds the log to the node's name, and notes that there is a log now.
func (s *logStore) own(owner raft.ServerID, got contents, started string) error {
	if got.stale || got.owner == "" {
		if err := s.take(owner, got.unsummed); err != nil {
			return err
		}
		if err := step.Reach(StepLogSealed); err != nil {
			return err
		}
	}
	if _, err := os.Stat(started); err == nil {
		return nil
	}
	if err := writeFileSync(started, nil); err != nil {
		return err
	}
	return step.Reach(StepLogOwned)
}

// take writes the owner and the record of a log that has none, or one from before a shoal that keeps none wrote there.
func (s *logStore) take(owner raft.ServerID, unsummed uint64) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := tx.Bucket(bucketConf).Put(keyNodeID, []byte(owner)); err != nil {
		return err
	}
	if err := seal(tx, unsummed); err != nil {
		return err
	}
	return tx.Commit()
}

// createBolt makes an empty log that exists whole or not at all.
func createBolt(path string) error {
	tmp := path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s, err := openBolt(tmp)
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil { // every commit was synced already
		return err
	}
	if err := step.Reach(StepLogMade); err != nil {
		return err
	}
	return putInPlace(tmp, path, StepLogRenamed, StepLogDurable)
}

// putInPlace gives a whole file its name.
func putInPlace(tmp, path string, renamed, durable step.Name) error {
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	if err := step.Reach(renamed); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return step.Reach(durable)
}

// openBolt opens a bolt file and makes its buckets. A damaged file makes bbolt panic or fault: that becomes an error too.
func openBolt(path string) (s *logStore, err error) {
	err = guarded(func() error {
		db, err := bbolt.Open(path, fileMode, &bbolt.Options{
			Timeout: lockTimeout,
			// The list of free pages is found again on opening instead of being written with every commit: half the
			// bytes for each entry, and opening reads the file once.
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
			NoSync:         boltNoSync,
		})
		if err != nil {
			return err
		}
		s = &logStore{db: db, path: path}
		if err := s.makeBuckets(); err != nil {
			_ = db.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, openError(path, err)
	}
	return s, step.Reach(StepLogOpened)
}

// boltNoSync is for the builds and the test that show that the power cuts of the other tests would find a log that is not synced.
var boltNoSync bool

func (s *logStore) makeBuckets() error {
	there := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		there = tx.Bucket(bucketLogs) != nil && tx.Bucket(bucketConf) != nil
		return nil
	})
	if err != nil || there {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketLogs, bucketConf} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
}

// compactBytes is the size from which on a file that is mostly free pages is written anew. bbolt's files never shrink.
var compactBytes int64 = 64 << 20 // tests lower it

func wasteful(size, used int64) bool { return size > compactBytes && used < size/4 }

// compact writes the file anew. A crash leaves the old one or the new one.
func compact(path string, unsummed uint64) error {
	tmp := path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := guarded(func() error { return copyBolt(tmp, path, unsummed) })
	if err == nil {
		err = step.Reach(StepLogCopied)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return step.Reach(StepLogReplaced)
}

func copyBolt(to, from string, unsummed uint64) error {
	src, err := bbolt.Open(from, fileMode, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := bbolt.Open(to, fileMode, &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true})
	if err != nil {
		return err
	}
	err = bbolt.Compact(dst, src, 4<<20)
	if err == nil { // the record is of a transaction of the other file
		err = dst.Update(func(tx *bbolt.Tx) error { return seal(tx, unsummed) })
	}
	if cerr := dst.Close(); err == nil { // every commit was synced already
		err = cerr
	}
	return err
}

// openError says what to do about a log that does not open.
func openError(path string, err error) error {
	var known *DamageError
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, bbolterrors.ErrTimeout), errors.Is(err, errLocked):
		return fmt.Errorf("open raft log %s: %w", path, errLocked)
	case errors.Is(err, errDamaged), errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum),
		errors.Is(err, bbolterrors.ErrVersionMismatch):
		return &DamageError{File: path, Err: err}
	case isFull(err):
		return fmt.Errorf("open raft log %s: disk full: %w; free some space there", path, err)
	}
	return fmt.Errorf("open raft log %s: %w", path, err)
}
