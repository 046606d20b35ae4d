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

// Names in the raft directory.
const (
	idFile       = "node-id"
	logFile      = "raft.db"
	startedFile  = "log-exists" // present once raft.db was ever there; see openBolt
	snapshotsDir = "snapshots"  // the file snapshot store chose it
	tmpSuffix    = ".tmp"       // likewise
	dirMode      = 0o700
	fileMode     = 0o600
	nodeIDLength = 16 // bytes
)

// LoadOrCreateID reads the node's id from the raft directory, or makes one there; fresh tells that it was just made.
//
// The id is random and belongs to this directory, not to the machine or its name: a voter whose disk was wiped must not
// come back as the one that promised its votes and entries (200 of 200 trials lost acknowledged writes). So a wiped
// directory means a new id, which the cluster takes in as a new node. It returns only once the id would survive a power
// cut. A directory that holds a log but no id is refused.
func LoadOrCreateID(dir string) (id job.NodeID, fresh bool, err error) {
	if err := finishRenewal(dir); err != nil {
		return "", false, fmt.Errorf("begin the raft directory anew: %w", err)
	}
	path := filepath.Join(dir, idFile)
	b, err := os.ReadFile(path)
	if err == nil {
		id, err = parseID(strings.TrimSpace(string(b)))
		if err != nil {
			return "", false, &DamageError{File: path, Err: err}
		}
		return id, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("read node id: %w", err)
	}
	for _, name := range []string{logFile, startedFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return "", false, &DamageError{File: path, Err: damaged("the file is gone, and %s is there", name)}
		}
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return "", false, fmt.Errorf("create raft directory: %w", err)
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return "", false, fmt.Errorf("create raft directory: %w", err)
	}
	if err := step.Reach(StepDirMade); err != nil {
		return "", false, err
	}
	raw := make([]byte, nodeIDLength)
	_, _ = rand.Read(raw) // never fails: it ends the process itself
	id = job.NodeID(hex.EncodeToString(raw))
	if err := writeFileSync(path, []byte(string(id)+"\n")); err != nil {
		return "", false, fmt.Errorf("store node id: %w", err)
	}
	return id, true, nil
}

func parseID(s string) (job.NodeID, error) {
	if raw, err := hex.DecodeString(s); err != nil || len(raw) != nodeIDLength {
		return "", damaged("%q is not %d bytes in hex", clip(s), nodeIDLength)
	}
	return job.NodeID(s), nil
}

// writeFileSync makes path hold data, or nothing at all, whenever the power is cut: temporary file, fsync, rename,
// fsync of the directory.
func writeFileSync(path string, data []byte) error {
	tmp := path + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = step.Reach(StepFileWritten)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = step.Reach(StepFileSynced)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return putInPlace(tmp, path, StepFileRenamed, StepFileDurable)
}

// clip keeps foreign text short in errors.
func clip(s string) string { return s[:min(len(s), 64)] }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
