package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"shoal/consensus/job"
)

// keyNodeID is where the log keeps the id of the node that wrote it.
var keyNodeID = []byte("ShoalNodeID")

// lockTimeout is how long to wait for another process to let go of the log.
const lockTimeout = 3 * time.Second

// openFiles opens the log and the snapshots in dir, and creates them for a node that never had any.
func openFiles(dir string, id job.NodeID, log *bridge) (Stores, io.Closer, error) {
	bolt, err := openBolt(dir, id, log)
	if err != nil {
		return Stores{}, nil, err
	}
	if err := removeHalfSnapshots(dir); err != nil {
		_ = bolt.Close()
		return Stores{}, nil, err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotRetain, log)
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		_ = bolt.Close()
		return Stores{}, nil, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	return Stores{Log: bolt, Stable: bolt, Snapshots: snapshots}, bolt, nil
}

// openBolt opens the log's file. A directory that had one once and has none now is refused: the node would come back
// under its old id without what it promised under it.
func openBolt(dir string, id job.NodeID, log *bridge) (*raftboltdb.BoltStore, error) {
	path, started := filepath.Join(dir, logFile), filepath.Join(dir, startedFile)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.Size() == 0:
		return nil, openError(path, fmt.Errorf("%w: it is empty", errDamaged))
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open raft log: %w", err)
	default:
		if _, err := os.Stat(started); err == nil {
			return nil, fmt.Errorf("raft log %s is gone: this node cannot come back without it: restore it, or move %s away to come in as a new node", path, dir)
		}
		if err := createBolt(path); err != nil {
			return nil, fmt.Errorf("create raft log %s: %w", path, err)
		}
	}
	used, err := verify(path)
	if err != nil {
		return nil, openError(path, err)
	}
	if info, err := os.Stat(path); err == nil && wasteful(info.Size(), used) {
		if err := compact(path); err != nil {
			log.Warn("the raft log's file stays large", "path", path, "size", info.Size(), "used", used, "error", err)
		}
	}
	bolt, err := open(path)
	if err != nil {
		return nil, err
	}
	if err := claim(bolt, id, started); err != nil {
		_ = bolt.Close()
		return nil, fmt.Errorf("open raft log %s: %w", path, err)
	}
	return bolt, nil
}

// claim binds the log to the node's id, and notes that there is a log now.
func claim(bolt *raftboltdb.BoltStore, id job.NodeID, started string) error {
	switch owner, err := bolt.Get(keyNodeID); {
	case errors.Is(err, raftboltdb.ErrKeyNotFound):
		if err := bolt.Set(keyNodeID, []byte(id)); err != nil {
			return err
		}
	case err != nil:
		return err
	case !bytes.Equal(owner, []byte(id)):
		return fmt.Errorf("it belongs to node %s, and this node is %s: restore the %s file that came with it", owner, id, idFile)
	}
	if _, err := os.Stat(started); err == nil {
		return nil
	}
	return writeFileSync(started, nil)
}

// createBolt makes an empty log that exists whole or not at all.
func createBolt(path string) error {
	tmp := path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	bolt, err := open(tmp)
	if err != nil {
		return err
	}
	if err := bolt.Close(); err != nil { // every commit was synced already
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// open opens a bolt file. A damaged file makes bbolt panic or fault: that becomes an error too.
func open(path string) (store *raftboltdb.BoltStore, err error) {
	err = guarded(func() error {
		store, err = raftboltdb.New(raftboltdb.Options{
			Path: path,
			BoltOptions: &bbolt.Options{
				Timeout: lockTimeout,
				// The list of free pages is found again on opening instead of being written with every commit: half the
				// bytes for each entry, and opening reads the file once.
				NoFreelistSync: true,
				FreelistType:   bbolt.FreelistMapType,
			},
			MsgpackUseNewTimeFormat: true,
		})
		return err
	})
	if err != nil {
		return nil, openError(path, err)
	}
	return store, nil
}

// verify reads every page that is in use, and counts the bytes of what is stored. bbolt reads them too when it looks for
// the free ones, but on a goroutine of its own, where the panic over a damaged page cannot be caught and would end the
// agent without a word of advice.
func verify(path string) (used int64, err error) {
	err = guarded(func() error {
		db, err := bbolt.Open(path, fileMode, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
		if err != nil {
			return err
		}
		defer db.Close()
		return db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
				return b.ForEach(func(k, v []byte) error {
					used += int64(len(k) + len(v))
					return nil
				})
			})
		})
	})
	return used, err
}

// compactBytes is the size from which on a file that is mostly free pages is written anew. bbolt's files never shrink.
const compactBytes = 64 << 20

func wasteful(size, used int64) bool { return size > compactBytes && used < size/4 }

// compact writes the file anew. A crash leaves the old one or the new one.
func compact(path string) error {
	tmp := path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := guarded(func() error { return copyBolt(tmp, path) })
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func copyBolt(to, from string) error {
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
	if cerr := dst.Close(); err == nil { // every commit was synced already
		err = cerr
	}
	return err
}

// openError says what to do about a log that does not open.
func openError(path string, err error) error {
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("open raft log %s: another process has it open: is an agent running already?", path)
	case errors.Is(err, errDamaged), errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum),
		errors.Is(err, bbolterrors.ErrVersionMismatch):
		return fmt.Errorf("open raft log %s: the file is damaged: %w; move the raft directory away to come in as a new node", path, err)
	case isFull(err):
		return fmt.Errorf("open raft log %s: disk full: %w; free some space there", path, err)
	}
	return fmt.Errorf("open raft log %s: %w", path, err)
}

// removeHalfSnapshots clears what a crash left of a snapshot that was being written; raft ignores but keeps it.
func removeHalfSnapshots(dir string) error {
	dir = filepath.Join(dir, snapshotsDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove unfinished snapshot: %w", err)
			}
		}
	}
	return nil
}
