package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Bind asks for a path of the host.
type Bind struct {
	// Source is absolute. A file, a directory or a socket.
	Source string
	// CreateHostPath makes a missing source a directory (mode 0755), as Compose's short syntax does.
	CreateHostPath bool
}

// Resolve returns the path to mount. It follows no symlinks: mount does, at the moment that counts. Errors: ErrInvalid
// for a relative path, ErrNotFound for a missing one.
func Resolve(b Bind) (string, error) {
	if !filepath.IsAbs(b.Source) {
		return "", fmt.Errorf("bind %q: %w: the path must be absolute on the machine that runs the task", b.Source, ErrInvalid)
	}
	path := filepath.Clean(b.Source)
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return path, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("bind %s: %w", path, err)
	case !b.CreateHostPath:
		return "", fmt.Errorf("bind %s: %w on this machine; create it, or set create_host_path", path, ErrNotFound)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", fmt.Errorf("bind: create %s: %w", path, err)
	}
	return path, nil
}
