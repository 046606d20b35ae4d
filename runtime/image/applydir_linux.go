package image

import (
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// openDir opens a directory below root by its clean name, and makes what is missing of it.
func (a *applier) openDir(name string) (openDir, error) {
	if a.stale {
		a.forgetDirs()
	}
	if d, ok := a.dirs[name]; ok {
		return d, nil
	}
	if a.nameBytes > MaxLayerNameBytes {
		return openDir{}, invalidf("names of directories have more than %d bytes together", MaxLayerNameBytes)
	}
	if a.implicitBytes > maxImplicitBytes {
		return openDir{}, invalidf("names of directories that it uses and does not describe have more than %d bytes together", maxImplicitBytes)
	}
	fd, err := a.resolve("/" + name)
	if err != nil {
		if fd, err = a.makeDirs(name, maxSymlinks); err != nil {
			return openDir{}, err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return openDir{}, pathError("stat", name, err)
	}
	if len(a.dirs) >= maxOpenDirs {
		a.forgetDirs()
	}
	d := openDir{fd, st.Mode&unix.S_ISGID != 0}
	a.dirs[name] = d
	return d, nil
}

const maxSymlinks = 40 // as in Linux

func (a *applier) resolve(name string) (int, error) {
	return unix.Openat2(a.root, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// forgetDirs closes directories whose names may mean something else from now on.
func (a *applier) forgetDirs() {
	for name, d := range a.dirs {
		unix.Close(d.fd)
		delete(a.dirs, name)
	}
	a.stale = false
}

// makeDirs is resolve that makes what is missing, also behind a link that leads nowhere yet, and that turns a whiteout on
// the way back into a directory: the tar deleted it and now fills it anew. hops bounds the links.
func (a *applier) makeDirs(name string, hops int) (int, error) {
	at, err := a.resolve("/")
	if err != nil {
		return -1, err
	}
	parts := strings.Split(name, "/")
	for i, part := range parts {
		if part == "" || part == "." {
			continue
		}
		// One step from where we are, so that a deep path costs no more than its length; the kernel's way from the root for
		// links and .., which must not leave it.
		next, err := -1, error(unix.ENOTDIR)
		if part != ".." {
			next, err = stepInto(at, part)
		}
		if err != nil {
			prefix := strings.Join(parts[:i+1], "/")
			if next, err = a.resolve("/" + prefix); err != nil {
				next, err = a.makeDir(at, prefix, part, hops)
			}
		}
		unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// stepInto opens a real directory in an open one.
func stepInto(at int, base string) (int, error) {
	return unix.Openat(at, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// makeDir makes one directory of a path, or finds out why it cannot be opened.
func (a *applier) makeDir(at int, prefix, base string, hops int) (int, error) {
	var st unix.Stat_t
	err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		if err := a.count(); err != nil {
			return -1, err
		}
		if err := unix.Mkdirat(at, base, 0o755); err != nil {
			return -1, pathError("mkdir", prefix, err)
		}
		if !a.exactModes {
			if err := unix.Fchmodat(at, base, 0o755, 0); err != nil {
				return -1, pathError("chmod", prefix, err)
			}
		}
		return stepInto(at, base)
	case err != nil:
		return -1, pathError("stat", prefix, err)
	case isWhiteout(&st):
		if err := a.reopen(at, base); err != nil {
			return -1, pathError("mkdir", prefix, err)
		}
		return stepInto(at, base)
	case base == "..": // of a directory that is gone, or of the root
		return -1, invalidf("its parent %q is not a directory", shorten(prefix))
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return -1, invalidf("its parent %q is not a directory", shorten(prefix))
	case hops == 0:
		return -1, invalidf("its parent %q is more than %d links deep", shorten(prefix), maxSymlinks)
	}
	target, err := readlinkat(at, base)
	if err != nil {
		return -1, pathError("readlink", prefix, err)
	}
	if !path.IsAbs(target) {
		dir, _ := splitName(prefix)
		target = dir + "/" + target
	}
	return a.makeDirs(strings.TrimLeft(target, "/"), hops-1)
}

func readlinkat(at int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(at, base, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func pathError(op, name string, err error) error {
	return &os.PathError{Op: op, Path: shorten(name), Err: err}
}

func pathErrorOrNil(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return pathError(op, name, err)
}
