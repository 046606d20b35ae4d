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

// fillMarker is in a volume while it is being filled: one that has it without anybody holding the volume's lock was left
// half full by a crash, and is filled anew.
const fillMarker = ".shoal-filling"

// fillVolumes copies what the image has at a volume's place into a volume that is empty, as Docker does at first use. In
// root, the container's user 0 is seen as base; in the volume it is 0.
func fillVolumes(root string, vols []VolumeMount, base uint32) error {
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(rootFD)
	for _, v := range vols {
		if !v.Fill || v.Subpath != "" { // Docker's rule: a part of a volume is never filled
			continue
		}
		if err := fillVolume(rootFD, v, int(base)); err != nil {
			return fmt.Errorf("fill the volume at %s from the image: %w", v.Target, err)
		}
	}
	return nil
}

func fillVolume(rootFD int, v VolumeMount, base int) error {
	src, err := openInRoot(rootFD, v.Target, unix.O_PATH|unix.O_DIRECTORY)
	if isAbsent(err) || errors.Is(err, unix.ENOTDIR) {
		return nil // the image has no directory there
	}
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Open(v.Source)
	if err != nil {
		return err
	}
	defer dst.Close()
	// Several containers may start with the same new volume at once. The lock goes with the descriptor.
	if err := unix.Flock(int(dst.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", v.Source, err)
	}
	todo, err := prepareFill(dst)
	if err != nil || !todo {
		return err
	}
	from, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", src.Fd()))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenRoot(v.Source)
	if err != nil {
		return err
	}
	defer to.Close()
	c := copier{from: from, to: to, links: map[[2]uint64]string{}, base: base}
	if err := c.dir("."); err != nil {
		return err
	}
	// All files, before the mark goes: a power cut would leave empty ones in a volume that nobody fills again.
	if err := unix.Syncfs(int(dst.Fd())); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	// And the mark's going, before the container writes: if it came back, the next start would empty the volume.
	return errors.Join(to.Remove(fillMarker), dst.Sync())
}

// prepareFill says whether the volume is to be filled, and marks it.
func prepareFill(dst *os.File) (bool, error) {
	entries, err := dst.ReadDir(-1)
	if err != nil {
		return false, err
	}
	root, err := os.OpenRoot(dst.Name())
	if err != nil {
		return false, err
	}
	defer root.Close()
	_, err = root.Lstat(fillMarker)
	if crashed := err == nil; !crashed {
		if len(entries) > 0 {
			return false, nil
		}
		return true, errors.Join(root.WriteFile(fillMarker, nil, 0o600), dst.Sync())
	}
	for _, e := range entries {
		if e.Name() != fillMarker {
			if err := root.RemoveAll(e.Name()); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// copier copies a tree of an image into a volume. Both ends are os.Roots: a link of the image, or one that a container
// with the same volume puts there meanwhile, leads nowhere else. Device nodes and sockets are left out.
type copier struct {
	from, to *os.Root
	links    map[[2]uint64]string // device and inode of files with several names -> the first copy
	base     int                  // that the owners in from are shifted by
}

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
	if _, err = io.Copy(out, in); err == nil {
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
