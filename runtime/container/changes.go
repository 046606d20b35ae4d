package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// Changes lists what the container's own layer holds over its image's.
func (r *Runtime) Changes(ctx context.Context, id runtime.ID) ([]runtime.FileChange, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, err
	}
	img, err := r.cfg.Images.Get(c.rec.Image)
	if err != nil {
		return nil, kindOf(err)
	}
	dirs, err := r.layers(ctx, img)
	if err != nil {
		return nil, kindOf(err)
	}
	var below layers
	defer func() { below.close() }()
	for _, d := range slices.Backward(dirs) { // topmost first
		l, err := os.OpenRoot(d)
		if err != nil {
			return nil, fmt.Errorf("changes of container %s: %w", id, err)
		}
		below = append(below, l)
	}
	upper, err := os.OpenRoot(filepath.Join(c.dir, stage.DirUpper)) // nothing in it leads outside
	if err != nil {
		return nil, fmt.Errorf("changes of container %s: %w", id, err)
	}
	defer upper.Close()
	out := []runtime.FileChange{}
	err = fs.WalkDir(upper.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) || name == ".":
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case len(out) == runtime.MaxChanges:
			return fs.SkipAll
		}
		fi, err := d.Info()
		if err != nil {
			return nil // removed meanwhile
		}
		kind := "A"
		switch {
		case isWhiteout(fi):
			kind = "D"
		case below.have(name):
			kind = "C"
		}
		out = append(out, runtime.FileChange{Kind: kind, Path: "/" + name})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("changes of container %s: %w", id, err)
	}
	slices.SortFunc(out, func(a, b runtime.FileChange) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// layers are an image's, topmost first.
type layers []*os.Root

func (l layers) close() {
	for _, dir := range l {
		dir.Close()
	}
}

func (l layers) have(name string) bool {
	for _, dir := range l {
		if fi, err := dir.Lstat(name); err == nil {
			return !isWhiteout(fi)
		}
	}
	return false
}

// isWhiteout tells overlay's mark of a deleted file: a character device with number 0.
func isWhiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*unixStat)
	return ok && fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == unix.Mkdev(0, 0)
}
