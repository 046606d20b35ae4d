package image

import (
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// reopen replaces a whiteout by an opaque directory: what is below stays deleted, what comes now is seen.
func (a *applier) reopen(at int, base string) error {
	if err := unix.Unlinkat(at, base, 0); err != nil {
		return err
	}
	if err := unix.Mkdirat(at, base, 0o755); err != nil {
		return err
	}
	return a.makeOpaque(at, base)
}

// makeOpaque hides what lower layers have in a directory. Whiteouts in it hide nothing any more, and would show: overlayfs
// lists a directory that it need not merge as it is.
func (a *applier) makeOpaque(at int, base string) error {
	return withDir(at, base, func(d *os.File, fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		a.opaque[st.Ino] = true
		names, err := readNames(d)
		if err != nil {
			return err
		}
		for _, name := range names {
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && isWhiteout(&st) {
				if err := unix.Unlinkat(fd, name, 0); err != nil {
					return err
				}
			}
		}
		return unix.Fsetxattr(fd, overlayOpaque, []byte{'y'}, 0)
	})
}

// withDir opens a directory for what O_PATH does not do.
func withDir(at int, base string, f func(d *os.File, fd int) error) error {
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	defer d.Close()
	return f(d, fd)
}

// whiteout hides what lower layers have under a name, never what its own layer holds, in whatever order they come (image
// specification, "Whiteouts").
func (a *applier) whiteout(at int, dir, target string) error {
	switch {
	case whiteoutPrefix+target == whiteoutOpaque:
		return pathErrorOrNil("hide", dir, a.makeOpaque(at, "."))
	case strings.HasPrefix(target, whiteoutPrefix): // aufs' own bookkeeping (.wh..wh.plnk and the like)
		return nil
	case target == "" || target == "." || target == "..":
		return invalidf("a whiteout of %q", target)
	}
	var st unix.Stat_t
	err := unix.Fstatat(at, target, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		if unix.Fstat(at, &st) == nil && a.opaque[st.Ino] {
			return nil
		}
		return pathErrorOrNil("mknod", target, unix.Mknodat(at, target, unix.S_IFCHR, 0))
	case err != nil:
		return pathError("stat", target, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR && a.hollow[path.Join(dir, target)]:
		if err := a.remove(at, target); err != nil {
			return pathError("hide", target, err)
		}
		return pathErrorOrNil("mknod", target, unix.Mknodat(at, target, unix.S_IFCHR, 0))
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return pathErrorOrNil("hide", target, a.makeOpaque(at, target))
	}
	return nil // a whiteout, or a file of this layer, which hides the lower one already
}
