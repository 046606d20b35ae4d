package container

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

type unixStat = syscall.Stat_t

// CopyIn unpacks an archive.
func (r *Runtime) CopyIn(ctx context.Context, id runtime.ID, c runtime.CopyIn, from io.Reader) error {
	root, err := r.rootOf(ctx, id)
	if err != nil {
		return err
	}
	defer root.Close()
	ctx, over := root.giveWay(ctx, id, func(error) {
		if from, ok := from.(io.Closer); ok { // a read takes as long as the client likes
			_ = from.Close()
		}
	})
	err = root.unpack(ctx, id, c, from)
	over()
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, runtime.ErrConflict) {
		return cause
	}
	return err
}

// unpack reads the archive.
func (r *root) unpack(ctx context.Context, id runtime.ID, c runtime.CopyIn, from io.Reader) error {
	fail := func(err error) error { return pathKind(fmt.Errorf("copy into container %s: %w", id, err)) }
	dir, err := r.open(c.Path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fail(err)
	}
	dir.Close()
	if c.MaxBytes <= 0 {
		c.MaxBytes = runtime.MaxCopyBytes
	}
	plain, err := decompress(reader{ctx, from})
	if err != nil {
		return fail(err)
	}
	defer plain.Close()
	u := unpacker{root: r, c: c, left: c.MaxBytes}
	if err := u.unpack(tar.NewReader(plain)); err != nil {
		return fail(err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(plain, maxTrailer)) // what tar adds to fill its last block
	return err
}

// maxTrailer bounds what is read after the end of an archive.
const maxTrailer = 1 << 20

// decompress looks at the first bytes; zstd's window is bounded.
func decompress(from io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(from, 64<<10)
	head, _ := b.Peek(6) // too short for any: no archive, and said so where it is read
	switch is := func(magic string) bool { return strings.HasPrefix(string(head), magic) }; {
	case is("\x1f\x8b"):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, stage.Invalidf("read the archive: %v", err)
		}
		return z, nil
	case is("BZh"):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case is("\x28\xb5\x2f\xfd"):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, stage.Invalidf("read the archive: %v", err)
		}
		return z.IOReadCloser(), nil
	case is("\xfd7zXZ\x00"):
		return nil, stage.Invalidf("the archive is compressed with xz; plain, gzip, bzip2 and zstd are taken")
	}
	return io.NopCloser(b), nil
}

// unpacker writes an archive's entries below a directory of the container. Each name is resolved anew, inside the
// container, up to its parent; the last element is never followed.
type unpacker struct {
	root    *root
	c       runtime.CopyIn
	left    int64 // bytes that may still be written
	entries int
	dirs    []dirTime
}

// dirTime is a directory's time, which is set when all is in it.
type dirTime struct {
	name string
	at   time.Time
}

// maxDirTimes bounds how many directories get the archive's time.
const maxDirTimes = 64 << 10

func (u *unpacker) unpack(from *tar.Reader) error {
	for {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return stage.Invalidf("read the archive: %v", err)
		}
		if u.entries++; u.entries > runtime.MaxCopyEntries {
			return stage.Invalidf("the archive has more than %d entries", runtime.MaxCopyEntries)
		}
		if err := u.entry(h, from); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		parent, base, err := u.root.parent(u.dirs[i].name)
		if err != nil {
			continue // the container moved it
		}
		_ = setTime(parent, base, u.dirs[i].at)
		parent.Close()
	}
	return nil
}

// inside makes a path of the container of a name in the archive.
func (u *unpacker) inside(name string) (string, error) {
	clean := path.Clean(name)
	if path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(name, 0) {
		return "", stage.Invalidf("%q leads out of the target directory", name)
	}
	return path.Join("/", u.c.Path, clean), nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := u.inside(h.Name)
	if err != nil {
		return err
	}
	if path.Clean(h.Name) == "." && h.Typeflag == tar.TypeDir {
		return nil // the target directory stays as it is
	}
	parent, base, err := u.root.parent(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = u.makeParents(h.Name); err == nil {
			parent, base, err = u.root.parent(name)
		}
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	at := int(parent.Fd())
	switch h.Typeflag {
	case tar.TypeDir:
		if err = u.directory(parent, base, name); err == nil && len(u.dirs) < maxDirTimes {
			u.dirs = append(u.dirs, dirTime{name, h.ModTime})
		}
	case tar.TypeReg, 0:
		return u.file(parent, base, h, content)
	case tar.TypeSymlink:
		if err = u.clear(parent, base); err == nil {
			err = unix.Symlinkat(h.Linkname, at, base)
		}
	case tar.TypeLink:
		return u.hardLink(parent, base, h.Linkname)
	case tar.TypeFifo:
		if err = u.clear(parent, base); err == nil {
			err = unix.Mkfifoat(at, base, uint32(h.Mode&0o7777))
		}
	case tar.TypeChar, tar.TypeBlock:
		return stage.Invalidf("it is a device, which is not copied into a container")
	default:
		return stage.Invalidf("it is of type %q, which is not known", h.Typeflag)
	}
	if err != nil {
		return wrapPath("make", name, err)
	}
	if err := u.owner(parent, base, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return chmodDir(parent, base, h)
	}
	return setTime(parent, base, h.ModTime)
}

func wrapPath(op, name string, err error) error {
	var p *os.PathError
	if err == nil || errors.As(err, &p) {
		return err
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}

// makeParents makes directories that the archive forgot.
func (u *unpacker) makeParents(name string) error {
	dir := path.Dir(path.Clean(name))
	sofar := ""
	for _, element := range strings.Split(dir, "/") {
		sofar = path.Join(sofar, element)
		full, err := u.inside(sofar)
		if err != nil {
			return err
		}
		parent, base, err := u.root.parent(full)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(int(parent.Fd()), base, 0o755)
		parent.Close()
		if err != nil && err != unix.EEXIST {
			return wrapPath("mkdir", full, err)
		}
	}
	return nil
}

// directory makes one, or takes the one that is there, also by a link.
func (u *unpacker) directory(parent *os.File, base, name string) error {
	at := int(parent.Fd())
	err := unix.Mkdirat(at, base, 0o755)
	if err != unix.EEXIST {
		return err
	}
	if f, err := u.root.open(name, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		return f.Close()
	}
	if u.c.NoOverwrite {
		return stage.WithKind(runtime.ErrConflict, fmt.Errorf("there is a file in place of the directory %s", name))
	}
	if err := unix.Unlinkat(at, base, 0); err != nil {
		return err
	}
	return unix.Mkdirat(at, base, 0o755)
}

// clear removes what stands in a file's place; a directory stays.
func (u *unpacker) clear(parent *os.File, base string) error {
	err := unix.Unlinkat(int(parent.Fd()), base, 0)
	switch err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM:
		var st unix.Stat_t
		if unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return stage.WithKind(runtime.ErrConflict, fmt.Errorf("there is a directory in place of the file %s", base))
		}
	}
	return err
}

// file writes one anew. A mount point, such as /etc/hosts, cannot be replaced and is written in place.
func (u *unpacker) file(parent *os.File, base string, h *tar.Header, content io.Reader) error {
	if h.Size > u.left {
		return stage.WithKind(runtime.ErrInvalid, fmt.Errorf("more than %d bytes", u.c.MaxBytes))
	}
	u.left -= h.Size
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	err := u.clear(parent, base)
	if err == unix.EBUSY {
		flags, err = unix.O_WRONLY|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, nil
	}
	if err != nil {
		return wrapPath("replace", base, err)
	}
	fd, err := unix.Openat(int(parent.Fd()), base, flags, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: base, Err: err}
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			return err
		}
		return stage.Invalidf("read the archive: %v", err)
	}
	uid, gid := u.ids(h)
	if err := f.Chown(uid, gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil { // after the owner: a change of that takes setuid away
		return &os.PathError{Op: "chmod", Path: base, Err: err}
	}
	return setTime(parent, base, h.ModTime)
}

func (u *unpacker) ids(h *tar.Header) (uid, gid int) {
	uid, gid = u.root.base, u.root.base
	if u.c.Owners {
		uid, gid = uid+h.Uid, gid+h.Gid
	}
	return uid, gid
}

func (u *unpacker) owner(parent *os.File, base string, h *tar.Header) error {
	uid, gid := u.ids(h)
	return wrapPath("chown", base, unix.Fchownat(int(parent.Fd()), base, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
}

// hardLink links to a file that the archive brought before, or that is in the container.
func (u *unpacker) hardLink(parent *os.File, base, to string) error {
	target, err := u.inside(to)
	if err != nil {
		return err
	}
	from, name, err := u.root.parent(target)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := u.clear(parent, base); err != nil {
		return wrapPath("replace", base, err)
	}
	return wrapPath("link", base, unix.Linkat(int(from.Fd()), name, int(parent.Fd()), base, 0))
}

func chmodDir(parent *os.File, base string, h *tar.Header) error {
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return nil // a link to a directory, which was there: it stays as it is
	}
	if err == nil {
		err = unix.Fchmod(fd, uint32(h.Mode&0o7777))
		unix.Close(fd)
	}
	return wrapPath("chmod", base, err)
}

func setTime(parent *os.File, base string, at time.Time) error {
	if at.IsZero() || at.Unix() < 0 {
		return nil
	}
	ts := unix.NsecToTimespec(at.UnixNano())
	return wrapPath("set the time of", base, unix.UtimesNanoAt(int(parent.Fd()), base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}
