package image

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// An unpacked tree is a copy of a blob that is on disk, so nobody waits until the tree is, too: it is used at once, and its
// description says in which boot it was written. A background sync then strikes that out. Open throws away what was
// written in another boot and never synced, because a power cut may have left empty files in it; an agent that merely
// crashed finds its trees whole, the kernel had them.

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

// settle syncs trees and then notes that they are. What fails is tried again by the next start's sweep: the tree goes.
func (s *Store) settle(paths []string) {
	if err := syncTree(s.layerDir()); err != nil {
		s.log.Warn("unpacked layers are not on disk: after a power cut they are unpacked again", "err", err)
		return
	}
	for _, path := range paths {
		meta, err := readLayerMeta(path)
		if err != nil { // swept meanwhile
			continue
		}
		meta.Boot = ""
		if err := s.writeMeta(path, meta); err != nil {
			s.log.Warn("the note that a layer is on disk could not be written", "layer", path, "err", err)
		}
	}
}

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

// sweepUnsettled removes trees that a power cut may have damaged.
func (s *Store) sweepUnsettled() error {
	files, err := filepath.Glob(filepath.Join(s.layerDir(), "*.json"))
	if err != nil {
		return err
	}
	boot := bootID()
	for _, f := range files {
		path := strings.TrimSuffix(f, ".json")
		meta, err := readLayerMeta(path)
		switch {
		case err == nil && meta.Boot == "":
			continue
		case err == nil && meta.Boot == boot && boot != "":
			s.settleLater(path)
			continue
		}
		s.log.Warn("an unpacked layer may not have reached the disk before the machine went down: it will be unpacked again", "layer", filepath.Base(path))
		if err := os.Remove(f); err != nil { // the tree without its description is nothing
			return err
		}
		if err := os.RemoveAll(path); err != nil {
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
