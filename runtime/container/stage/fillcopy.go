package stage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copier copies a tree of an image into a volume. Both ends are os.Roots: a link of the image, or one that a container
// with the same volume puts there meanwhile, leads nowhere else. Device nodes and sockets are left out.
type copier struct {
	from, to *os.Root
	links    map[[2]uint64]string // device and inode of files with several names -> the first copy
	base     int                  // that the owners in from are shifted by
	// progress is told of each file and each chunk of one; its error ends the copying.
	progress func() error
	unsynced int64 // bytes written since the last sync
}

const (
	copyChunk = 8 << 20
	// syncEvery bounds what a sync at the end has to write, in bytes: it takes its time where others can see that it goes on.
	syncEvery = 256 << 20
)

func (c *copier) dir(name string) error {
	d, err := c.from.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.entry(path.Join(name, e.Name())); err != nil {
			return fmt.Errorf("%s: %w", path.Join(name, e.Name()), err)
		}
	}
	st, err := d.Stat()
	if err != nil {
		return err
	}
	out, err := c.to.Open(name)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := c.finish(name, st); err != nil {
		return err
	}
	copyAttributes(d, out)
	return nil
}

func (c *copier) entry(name string) error {
	if err := c.progress(); err != nil {
		return err
	}
	st, err := c.from.Lstat(name)
	if err != nil {
		return err
	}
	switch st.Mode().Type() {
	case fs.ModeDir:
		if err := c.to.Mkdir(name, 0o700); err != nil {
			return err
		}
		return c.dir(name)
	case fs.ModeSymlink:
		target, err := c.from.Readlink(name)
		if err != nil {
			return err
		}
		if err := c.to.Symlink(target, name); err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		return c.to.Lchown(name, int(sys.Uid)-c.base, int(sys.Gid)-c.base)
	case 0:
		return c.file(name, st)
	}
	return nil
}

func (c *copier) file(name string, st fs.FileInfo) error {
	sys := st.Sys().(*syscall.Stat_t)
	key := [2]uint64{uint64(sys.Dev), sys.Ino}
	if first, ok := c.links[key]; ok {
		return c.to.Link(first, name)
	}
	in, err := c.from.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err = c.content(out, in); err == nil {
		err = c.finish(name, st)
	}
	copyAttributes(in, out) // after the owner: a change of that clears a file's capabilities
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if sys.Nlink > 1 {
		c.links[key] = name
	}
	return nil
}

func (c *copier) content(out, in *os.File) error {
	for {
		n, err := io.CopyN(out, in, copyChunk)
		if c.unsynced += n; c.unsynced >= syncEvery {
			c.unsynced = 0
			if err := unix.Syncfs(int(out.Fd())); err != nil {
				return fmt.Errorf("sync: %w", err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.progress(); err != nil {
			return err
		}
	}
}

// finish sets owner, then mode (a change of owner clears setuid), then times.
func (c *copier) finish(name string, st fs.FileInfo) error {
	sys := st.Sys().(*syscall.Stat_t)
	if err := c.to.Lchown(name, int(sys.Uid)-c.base, int(sys.Gid)-c.base); err != nil {
		return err
	}
	if err := c.to.Chmod(name, st.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return c.to.Chtimes(name, st.ModTime(), st.ModTime())
}

// copyAttributes copies extended attributes but overlay's own. A file system that has none is no reason to fail.
func copyAttributes(from, to *os.File) {
	names := make([]byte, 4096)
	n, err := unix.Flistxattr(int(from.Fd()), names)
	if err != nil || n == 0 {
		return
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		if n, err := unix.Fgetxattr(int(from.Fd()), name, value); err == nil {
			_ = unix.Fsetxattr(int(to.Fd()), name, value[:n], 0)
		}
	}
}
