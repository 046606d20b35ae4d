package consensus

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"shoal/consensus/job"
	"shoal/runtime/step"
)

// A node whose raft directory is damaged keeps its id, its name and its containers, but not its place in the log: under
// its old name there it would be the voter that forgot what it promised. So it sets the directory aside and gets a new
// name in the log, the node's id and a life: HolderID. Whoever asks for the old one, also by a configuration of long ago,
// is not answered (node puts the life into the protocol's name); the leader takes the old one out as it does a node that
// was removed, and the node comes in under the new name like any other.

const (
	lifeFile    = "log-life"
	newSuffix   = ".new"
	asideSuffix = damagedSuffix
	lifeLength  = 8 // bytes
	lifeSep     = "."
)

// HolderID is a node's name in the log: its id, until its log was damaged and begun anew.
func HolderID(id job.NodeID, life string) job.NodeID {
	if life == "" {
		return id
	}
	return id + lifeSep + job.NodeID(life)
}

// NodeOf takes a name in the log apart.
func NodeOf(holder job.NodeID) (id job.NodeID, life string) {
	node, life, _ := strings.Cut(string(holder), lifeSep)
	return job.NodeID(node), life
}

// Life is "" for a directory that was never begun anew.
func Life(dir string) (string, error) {
	path := filepath.Join(dir, lifeFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the log's life: %w", err)
	}
	life := strings.TrimSpace(string(b))
	if raw, err := hex.DecodeString(life); err != nil || len(raw) != lifeLength {
		return "", &DamageError{File: path, Err: damaged("%q is not %d bytes in hex", clip(life), lifeLength)}
	}
	return life, nil
}

// Renew sets a damaged raft directory aside (dir.damaged; one of before goes) and begins it anew for the same node under
// a new life. Only a node that has heard from a leader, and so knows that the others have a quorum without it, may do so.
// A crash leaves the old directory or the new one.
func Renew(dir string, id job.NodeID) error {
	fresh := dir + newSuffix
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, dirMode); err != nil {
		return err
	}
	life := make([]byte, lifeLength)
	_, _ = rand.Read(life)
	if err := writeFileSync(filepath.Join(fresh, lifeFile), []byte(hex.EncodeToString(life)+"\n")); err != nil {
		return err
	}
	if err := writeFileSync(filepath.Join(fresh, idFile), []byte(string(id)+"\n")); err != nil {
		return err
	}
	if err := step.Reach(StepRenewMade); err != nil {
		return err
	}
	aside := dir + asideSuffix
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, reserveFile)) // space that nobody needs there
	if err := os.Rename(dir, aside); err != nil {
		return err
	}
	if err := step.Reach(StepRenewAside); err != nil {
		return err
	}
	return putInPlace(fresh, dir, StepRenewRenamed, StepRenewDurable)
}

// finishRenewal ends what a crash interrupted: once the old directory is aside, the new one is whole.
func finishRenewal(dir string) error {
	fresh := dir + newSuffix
	if _, err := os.Stat(fresh); err != nil {
		return nil
	}
	if _, err := os.Stat(dir); err == nil {
		return os.RemoveAll(fresh)
	}
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}
