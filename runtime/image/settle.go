package image

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"shoal/runtime/step"
)

// An unpacked tree is a copy of a blob that is on disk, so nobody waits until the tree is, too: it is used at once, and its
// description says in which boot it was written. A background sync then strikes that out, and seals the tree. Open throws
// away what was written in another boot and never synced, because a power cut may have left empty files in it.
//
// What this boot wrote and an earlier process did not see synced is doubtful: if only the agent crashed it is whole, the
// kernel has it, and containers may run from it. If the file system went down under a kernel that went on, or the machine
// is the restored copy of another, it may be anything, and nothing that the kernel says tells the two apart. So it is left
// where it is, and compared with a fresh copy before a container starts from it again (trust.go).

// settleDelay lets a sync serve several trees that are unpacked one after the other.
const settleDelay = 2 * time.Second

// settler syncs trees behind everybody's back.
type settler struct {
	mu      sync.Mutex
	pending []string // trees
	running bool
	stopped bool
	stopCh  chan struct{}
	wait    sync.WaitGroup
}

// settleLater has the tree at path synced soon.
func (s *Store) settleLater(path string) {
	t := &s.settling
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending = append(t.pending, path)
	if t.running || t.stopped {
		return
	}
	t.running = true
	t.wait.Go(func() {
		for {
			select {
			case <-time.After(settleDelay):
			case <-t.stopCh: // the next start goes on with them
				return
			}
			t.mu.Lock()
			batch := t.pending
			t.pending = nil
			if len(batch) == 0 {
				t.running = false
				t.mu.Unlock()
				return
			}
			t.mu.Unlock()
			s.settle(batch)
		}
	})
}

// settle syncs trees, seals them, and then notes that. What could not be synced is noted, too: the kernel reports a lost
// write once, and the next sync would say that all is well.
func (s *Store) settle(paths []string) {
	failed := errors.Join(step.Reach("settle"), s.syncTrees())
	if failed != nil {
		s.log.Warn("unpacked layers are not on disk: after a power cut they are unpacked again", "err", failed)
	}
	for _, path := range paths {
		meta, err := readLayerMeta(path)
		if err != nil || !s.isProven(path) { // swept meanwhile, or damaged and not looked at yet
			continue
		}
		if failed != nil {
			meta.Lost = true
		} else if meta.seal, err = sealTree(path, meta.Implicit, true); err == nil {
			meta.Boot = ""
		}
		if err = errors.Join(err, step.Reach("settle sealed")); err == nil {
			err = s.writeMeta(path, meta)
		}
		if err != nil {
			s.log.Warn("the note that a layer is on disk could not be written", "layer", path, "err", err)
		}
	}
}

// syncTrees syncs the file system by a descriptor that is as old as the store, so that no error of a write since then was
// reported to somebody else.
func (s *Store) syncTrees() error { return syncFS(s.layers) }

// writeMeta replaces a tree's description if it still has one.
func (s *Store) writeMeta(path string, meta layerMeta) error {
	raw, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	// Under writing, so that no sweep is between the tree and its description.
	s.writing.Lock()
	defer s.writing.Unlock()
	if !isUnpacked(path) {
		return nil
	}
	return s.writeFile(path+".json", raw)
}

// stop waits for the sync that runs; what is pending stays noted as such.
func (t *settler) stop() {
	t.mu.Lock()
	if !t.stopped {
		t.stopped = true
		close(t.stopCh)
	}
	t.mu.Unlock()
	t.wait.Wait()
}

// sweepUnsettled removes trees that a power cut may have damaged, and descriptions without a tree.
func (s *Store) sweepUnsettled() error {
	files, err := filepath.Glob(filepath.Join(s.layerDir(), "*.json"))
	if err != nil {
		return err
	}
	boot := bootID()
	for _, f := range files {
		path := strings.TrimSuffix(f, ".json")
		meta, err := readLayerMeta(path)
		if err == nil && isDir(path) && (meta.Boot == "" || meta.Boot == boot) {
			continue
		}
		if isDir(path) {
			s.log.Warn("an unpacked layer may not have reached the disk before the machine went down: it will be unpacked again", "layer", filepath.Base(path))
		}
		if err := os.Remove(f); err != nil { // the tree without its description is nothing
			return err
		}
		if err := step.Reach("sweep of an unsettled tree"); err != nil {
			return err
		}
		if err == nil && meta.Boot != "" && meta.Boot != boot { // nothing runs from it
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return s.sweepUndescribed()
}

// sweepUndescribed takes trees away whose description is gone, damaged, or speaks of another boot. Those that may be of this
// boot are only set aside, because a container may run from them.
func (s *Store) sweepUndescribed() error {
	trees, err := os.ReadDir(s.layerDir())
	if err != nil {
		return err
	}
	for _, f := range trees {
		path := filepath.Join(s.layerDir(), f.Name())
		if !f.IsDir() || isUnpacked(path) {
			continue
		}
		if err := s.setAside(path, ""); err != nil {
			return err
		}
	}
	return nil
}

// bootID changes with every start of the kernel; "": it does not say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
