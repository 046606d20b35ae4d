package image

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// create makes one entry. What is there under its name makes way, unless both are directories.
func (a *applier) create(h *tar.Header, r io.Reader, in openDir, name, base string) error {
	if h.Typeflag != tar.TypeDir {
		delete(a.times, name)
	}
	mode := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeDir:
		return pathErrorOrNil("mkdir", name, a.createDir(h, in, name, base, mode))
	case tar.TypeReg:
		return a.createFile(h, r, in, name, base, mode)
	case tar.TypeLink:
		return a.createLink(h, in, name, base)
	case tar.TypeSymlink:
		if h.Linkname == "" {
			return invalidf("a symbolic link to nothing")
		}
		if err := a.replacing(in.fd, base, func() error { return unix.Symlinkat(h.Linkname, in.fd, base) }); err != nil {
			return pathError("symlink", name, err)
		}
	default:
		if err := a.createNode(h, in, base, mode); err != nil {
			return pathError("mknod", name, err)
		}
	}
	if err := unix.Fchownat(in.fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("chown", name, err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(in.fd, base, mode, 0); err != nil {
			return pathError("chmod", name, err)
		}
	}
	return pathErrorOrNil("set times of", name, unix.UtimesNanoAt(in.fd, base, timesOf(h.ModTime), unix.AT_SYMLINK_NOFOLLOW))
}

// createNode makes devices and FIFOs. A device 0/0 is what overlayfs takes for a whiteout, so that it hides what is below.
func (a *applier) createNode(h *tar.Header, in openDir, base string, mode uint32) error {
	kind, dev := uint32(unix.S_IFIFO), 0
	if h.Typeflag != tar.TypeFifo {
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor >= 1<<12 || h.Devminor >= 1<<20 { // what Linux has
			return invalidf("device %d:%d is not one", h.Devmajor, h.Devminor)
		}
		kind, dev = unix.S_IFCHR, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
	}
	return a.replacing(in.fd, base, func() error { return unix.Mknodat(in.fd, base, kind|mode, dev) })
}

// createDir makes a directory, or gives one that is there its attributes.
func (a *applier) createDir(h *tar.Header, in openDir, name, base string, mode uint32) error {
	err := unix.Mkdirat(in.fd, base, mode&0o777)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err = unix.Fstatat(in.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		case isWhiteout(&st):
			err = a.reopen(in.fd, base)
		default:
			if err = a.remove(in.fd, base); err == nil {
				err = unix.Mkdirat(in.fd, base, mode&0o777)
			}
		}
		a.stale = true // it may be open with other attributes
		in.setgid = true
	}
	if err != nil {
		return err
	}
	a.times[name] = h.ModTime
	xattrs := hasXattrs(h)
	if h.Uid != 0 || h.Gid != 0 || in.setgid || !a.plainRoot {
		if err := unix.Fchownat(in.fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if xattrs {
		if err := withDir(in.fd, base, func(_ *os.File, fd int) error { return a.setXattrs(fd, h) }); err != nil {
			return err
		}
	}
	if mode&0o7000 != 0 || in.setgid || xattrs || !a.exactModes {
		return unix.Fchmodat(in.fd, base, mode, 0) // it is a directory, which the lines above saw to
	}
	return nil
}

// createFile makes a regular file and fills it.
func (a *applier) createFile(h *tar.Header, r io.Reader, in openDir, name, base string, mode uint32) error {
	fd := -1
	err := a.replacing(in.fd, base, func() (err error) {
		fd, err = unix.Openat(in.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
		return err
	})
	if err != nil {
		return pathError("create", name, err)
	}
	defer unix.Close(fd)
	if err := a.fill(fd, r, h.Size); err != nil {
		return err
	}
	xattrs := hasXattrs(h)
	if h.Uid != 0 || h.Gid != 0 || in.setgid || !a.plainRoot {
		if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
			return pathError("chown", name, err)
		}
	}
	if xattrs { // after the owner and the content, which both take capabilities away
		if err := a.setXattrs(fd, h); err != nil {
			return pathError("set attributes of", name, err)
		}
	}
	if mode&0o7000 != 0 || xattrs || !a.exactModes {
		if err := unix.Fchmod(fd, mode); err != nil {
			return pathError("chmod", name, err)
		}
	}
	return pathErrorOrNil("set times of", name, unix.UtimesNanoAt(in.fd, base, timesOf(h.ModTime), unix.AT_SYMLINK_NOFOLLOW))
}

func timesOf(t time.Time) []unix.Timespec {
	ts := unix.Timespec{Nsec: int64(t.Nanosecond())}
	ts.Sec = t.Unix()
	return []unix.Timespec{ts, ts}
}

func hasXattrs(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, paxXattr) {
			return true
		}
	}
	return false
}

// setXattrs sets what cleanXattrs left. A file system without such attributes is no reason to refuse an image.
func (a *applier) setXattrs(fd int, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if strings.HasPrefix(name, "system.posix_acl_default") {
			a.exactModes = false // what comes into this directory gets other modes
		}
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// createLink makes a hard link to something that is there.
func (a *applier) createLink(h *tar.Header, in openDir, name, base string) error {
	target := strings.TrimPrefix(path.Join("/", h.Linkname), "/")
	if target == "" {
		return invalidf("a hard link to the root")
	}
	dir, last := splitName(target)
	from, err := a.resolve("/" + dir) // not openDir: that could close in
	if err != nil {
		return invalidf("hard link to %q: %w", shorten(h.Linkname), err)
	}
	defer unix.Close(from)
	var st, old unix.Stat_t
	if err := unix.Fstatat(from, last, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return invalidf("hard link to %q: %w", shorten(h.Linkname), err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return invalidf("hard link to %q, which is a directory", shorten(h.Linkname))
	}
	if unix.Fstatat(in.fd, base, &old, unix.AT_SYMLINK_NOFOLLOW) == nil && old.Dev == st.Dev && old.Ino == st.Ino {
		return nil
	}
	return pathErrorOrNil("link", name, a.replacing(in.fd, base, func() error { return unix.Linkat(from, last, in.fd, base, 0) }))
}
