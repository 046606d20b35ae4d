package stage

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// settle ends what an earlier start left: a copy that is whole is moved in, before anybody uses the volume; one that is not
// is removed. While somebody is at it that is his to do.
func (f *filling) settle() error {
	if !f.has(f.begun) && !f.has(f.done) {
		return nil
	}
	if unix.Flock(int(f.data.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	defer unix.Flock(int(f.data.Fd()), unix.LOCK_UN)
	if err := f.aside.RemoveAll(f.begun); err != nil {
		return err
	}
	if !f.has(f.done) {
		return nil
	}
	return f.moveIn()
}

func (f *filling) has(name string) bool {
	st, err := f.aside.Lstat(name)
	return err == nil && st.IsDir()
}

// moveIn makes the copy part of the volume. It can be done again from the beginning. The caller has the lock.
func (f *filling) moveIn() error {
	from, err := f.aside.Open(f.done)
	if err != nil {
		return err
	}
	defer from.Close()
	marked := f.marked()
	if err := moveEntries(from, f.data, marked); err != nil {
		return err
	}
	if !marked || f.untouched() {
		st, err := from.Stat()
		if err != nil {
			return err
		}
		if err := (&copier{to: f.in}).finish(".", st); err != nil {
			return err
		}
		copyAttributes(from, f.data)
	}
	if marked {
		if err := f.in.Remove(fillMark); err != nil {
			return err
		}
	}
	if err := f.data.Sync(); err != nil {
		return err
	}
	f.reach("launch fill moved")
	return f.aside.RemoveAll(f.done)
}

// untouched tells whether the volume's own attributes are still those that it was made with.
func (f *filling) untouched() bool {
	var st unix.Stat_t
	err := unix.Fstat(int(f.data.Fd()), &st)
	return err == nil && st.Uid == 0 && st.Gid == 0 && st.Mode&0o7777 == 0o755
}

// moveEntries moves what is in a directory into another, but nothing that has a name there already; merge: what is in a
// directory that both have, too.
func moveEntries(from, to *os.File, merge bool) error {
	entries, err := from.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err := moveNew(int(from.Fd()), int(to.Fd()), e.Name())
		if err == unix.EEXIST && merge && e.IsDir() {
			err = mergeDir(from, to, e.Name())
		}
		if err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "move into the volume", Path: e.Name(), Err: err}
		}
	}
	return nil
}

// moveNew renames one entry unless its name is taken: EEXIST.
func moveNew(from, to int, name string) error {
	err := unix.Renameat2(from, name, to, name, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	// A file system that cannot promise that (NFS): look first.
	var st unix.Stat_t
	if err := unix.Fstatat(to, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
		return errOr(err, unix.EEXIST)
	}
	return unix.Renameat(from, name, to, name)
}

func errOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// mergeDir moves what a directory of the volume does not have of the one of the same name.
func mergeDir(from, to *os.File, name string) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	a, err := unix.Openat(int(from.Fd()), name, flags, 0)
	if err != nil {
		return err
	}
	below := os.NewFile(uintptr(a), name)
	defer below.Close()
	b, err := unix.Openat(int(to.Fd()), name, flags, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, fs.ErrNotExist) {
		return nil // it is something else there
	}
	if err != nil {
		return err
	}
	there := os.NewFile(uintptr(b), name)
	defer there.Close()
	return moveEntries(below, there, true)
}
