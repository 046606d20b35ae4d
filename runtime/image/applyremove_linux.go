package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// replacing tries to make something, and once more when what is in its way has been removed.
func (a *applier) replacing(at int, base string, try func() error) error {
	err := try()
	if err != unix.EEXIST {
		return err
	}
	if err := a.remove(at, base); err != nil {
		return err
	}
	return try()
}

// remove deletes whatever is under a name. What was known of directories may be wrong afterwards.
func (a *applier) remove(at int, base string) error {
	a.stale = true
	err := unix.Unlinkat(at, base, 0)
	if err == unix.EISDIR {
		clear(a.opaque) // their inodes may come again
		return removeTree(at, base)
	}
	return err
}

// removeTree deletes a directory with all that is in it. It follows nothing, and needs two descriptors however deep the
// tree is, because it moves what is deeper up.
func removeTree(at int, base string) error {
	return withDir(at, base, func(top *os.File, fd int) error {
		moved := 0
		for {
			names, err := readNames(top)
			if err != nil || len(names) == 0 {
				return errors.Join(err, unix.Unlinkat(at, base, unix.AT_REMOVEDIR))
			}
			for _, name := range names {
				if err := removeOne(fd, name, &moved); err != nil {
					return err
				}
			}
		}
	})
}

func readNames(d *os.File) ([]string, error) {
	if _, err := d.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return d.Readdirnames(-1)
}

// removeOne deletes a file, or a directory after moving its directories up to top.
func removeOne(top int, name string, moved *int) error {
	if err := unix.Unlinkat(top, name, 0); err != unix.EISDIR {
		return err
	}
	if err := unix.Unlinkat(top, name, unix.AT_REMOVEDIR); err != unix.ENOTEMPTY {
		return err
	}
	err := withDir(top, name, func(d *os.File, fd int) error {
		children, err := readNames(d)
		if err != nil {
			return err
		}
		for _, child := range children {
			if err := unix.Unlinkat(fd, child, 0); err != unix.EISDIR {
				if err != nil {
					return err
				}
				continue
			}
			if err := moveUp(fd, child, top, moved); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return unix.Unlinkat(top, name, unix.AT_REMOVEDIR)
}

// moveUp gives a directory some free name in top.
func moveUp(fd int, child string, top int, moved *int) error {
	for {
		*moved++
		err := unix.Renameat2(fd, child, top, fmt.Sprintf(".shoal-%d", *moved), unix.RENAME_NOREPLACE)
		if err != unix.EEXIST {
			return err
		}
	}
}
