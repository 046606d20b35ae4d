package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"shoal/node/pki"
	"shoal/runtime/step"
)

// halfWritten is in the name of a file that is being written.
const halfWritten = ".tmp-"

// writeFileAtomic leaves the old content or the new one, whatever happens, with mode 0600.
func writeFileAtomic(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+halfWritten+"*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err == nil {
		err = step.Reach(stepFileWritten)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = step.Reach(stepFileSynced)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = step.Reach(stepFileRenamed)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err == nil {
		err = step.Reach(stepFileDurable)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sweepHalfWritten removes what a crash left of files that were being written: keys are among them.
func (n *Node) sweepHalfWritten() error {
	half, err := filepath.Glob(n.path("*" + halfWritten + "*"))
	for _, path := range half {
		err = errors.Join(err, removeIfThere(path))
	}
	return errors.Join(err, pki.SweepHalfWritten(n.path(identityDir)))
}
