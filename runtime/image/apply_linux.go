package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	paxXattr       = "SCHILY.xattr."
	overlayOpaque  = "trusted.overlay.opaque"

	maxOpenDirs = 64        // directories that are kept open because more may come into them
	copyChunk   = 256 << 10 // of a file
	holeChunk   = 64 << 10  // zeros in a row that become a hole
)

// applier makes the files of one layer below root. Names are resolved by the kernel with RESOLVE_IN_ROOT, which keeps
// links and .. inside whatever they say, and everything is then done to one name in an open directory, without following
// it. So nothing outside of root can be reached, in this process as in a confined one.
type applier struct {
	root  int                // O_PATH
	dirs  map[string]openDir // kept open because more may come into them
	stale bool               // names of dirs may mean something else by now
	// exactModes: the umask is 0, so that what a file is created with needs no chmod.
	exactModes bool
	plainRoot  bool // what this process makes belongs to 0:0
	buf        []byte

	entries   int
	size      int64
	sparse    int64
	nameBytes int64

	times    map[string]time.Time // of directories, which change while they are filled
	implicit map[string]bool      // directories without an entry, by clean name without leading slash
	explicit map[string]bool      // directories with one
	hollow   map[string]bool      // implicit ones that hold nothing but whiteouts
	opaque   map[uint64]bool      // directories that hide what is below, by inode; some may be missing
}

// openDir is a directory that things are made in.
type openDir struct {
	fd     int  // O_PATH; the applier's
	setgid bool // what is made in it belongs to its group
}

func newApplier(root string, exactModes bool) (*applier, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	return &applier{
		root: fd, dirs: map[string]openDir{}, exactModes: exactModes, plainRoot: os.Geteuid() == 0 && os.Getegid() == 0, buf: make([]byte, copyChunk),
		times: map[string]time.Time{}, implicit: map[string]bool{}, explicit: map[string]bool{}, hollow: map[string]bool{}, opaque: map[uint64]bool{},
	}, nil
}

func (a *applier) close() {
	a.forgetDirs()
	unix.Close(a.root)
}

// apply makes all entries of the tar.
func (a *applier) apply(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return a.setTimes()
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.entry(h, tr); err != nil {
			return fmt.Errorf("entry %q: %w", shorten(h.Name), err)
		}
	}
}

// shorten cuts a hostile name to what fits a message.
func shorten(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

func (a *applier) entry(h *tar.Header, r io.Reader) error {
	if take, err := a.check(h); !take || err != nil {
		return err
	}
	name := strings.TrimPrefix(path.Join("/", h.Name), "/")
	if name == "" { // the root itself: overlayfs shows the upper directory's attributes anyway
		return nil
	}
	dir, base := splitName(name)
	target, hides := strings.CutPrefix(base, whiteoutPrefix)
	if hides {
		if hidden, err := a.hidden(dir); hidden || err != nil {
			return err
		}
	}
	a.noteParents(name, h.Typeflag == tar.TypeDir, hides)
	parent, err := a.openDir(dir)
	if err != nil {
		return err
	}
	if hides {
		return a.whiteout(parent.fd, dir, target)
	}
	return a.create(h, r, parent, name, base)
}

// check sees every header first: limits, and attributes that an image may not set. False: the entry is passed over.
func (a *applier) check(h *tar.Header) (bool, error) {
	if err := a.count(); err != nil {
		return false, err
	}
	if len(h.Name) > MaxEntryNameLength || len(h.Linkname) > MaxEntryNameLength {
		return false, invalidf("entry %d has a name of more than %d bytes", a.entries, MaxEntryNameLength)
	}
	if strings.IndexByte(h.Name, 0) >= 0 || strings.IndexByte(h.Linkname, 0) >= 0 {
		return false, invalidf("a name with a zero byte")
	}
	if h.Size < 0 || h.Size > MaxUnpackedLayerSize-a.size { // sparse files: what they claim, not what they carry
		return false, invalidf("files of more than %d bytes together", int64(MaxUnpackedLayerSize))
	}
	a.size += h.Size
	if isSparse(h) {
		if a.sparse += h.Size; a.sparse > MaxSparseSize { // their zeros are read one by one
			return false, invalidf("sparse files of more than %d bytes together", int64(MaxSparseSize))
		}
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return false, nil
	case tar.TypeGNUSparse, tar.TypeCont, '\x00':
		h.Typeflag = tar.TypeReg
	case tar.TypeReg, tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeBlock, tar.TypeChar, tar.TypeFifo:
	default:
		return false, invalidf("it is of the unknown type %q", h.Typeflag)
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return false, invalidf("owner %d:%d is not one", h.Uid, h.Gid)
	}
	return true, cleanXattrs(h)
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// count bounds what one layer makes, with or without an entry.
func (a *applier) count() error {
	if a.entries++; a.entries > MaxLayerEntries {
		return invalidf("more than %d files", MaxLayerEntries)
	}
	return nil
}

// cleanXattrs keeps what means something inside a container: user.*, file capabilities, ACLs. Overlayfs's own attributes
// would let a layer redirect reads to other layers' files; security labels are the host's business.
func cleanXattrs(h *tar.Header) error {
	size := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		size += len(key) + len(value)
		if !keepXattr(name) {
			delete(h.PAXRecords, key)
		}
	}
	if size > MaxEntryHeaderSize {
		return invalidf("%d bytes of extended attributes, at most %d", size, MaxEntryHeaderSize)
	}
	return nil
}

func keepXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_") ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// noteParents notes which directories the tar describes and which it only uses, perhaps for whiteouts alone.
func (a *applier) noteParents(name string, isDir, hides bool) {
	dir, _ := splitName(name)
	for ; dir != "" && !a.explicit[dir] && !a.implicit[dir]; dir, _ = splitName(dir) {
		a.implicit[dir] = true
		a.nameBytes += int64(len(dir))
		if hides {
			a.hollow[dir] = true
		}
	}
	if hides {
		return
	}
	// What holds a file is not hollow, and neither is what holds that.
	for dir = name; dir != "" && (dir == name || a.hollow[dir]); dir, _ = splitName(dir) {
		delete(a.hollow, dir)
	}
	if isDir {
		a.explicit[name] = true
		a.nameBytes += int64(len(name))
		delete(a.implicit, name)
	}
}

// hidden tells whether a directory's name stands for something else in this layer: a file, a link, or a whiteout of all of
// it. A whiteout in it then has nothing to hide (umoci writes such ones).
func (a *applier) hidden(dir string) (bool, error) {
	if dir == "" || a.explicit[dir] {
		return false, nil
	}
	at, err := a.resolve("/")
	if err != nil {
		return false, err
	}
	for part := range strings.SplitSeq(dir, "/") {
		next, err := step(at, part)
		if err != nil {
			var st unix.Stat_t
			err := unix.Fstatat(at, part, &st, unix.AT_SYMLINK_NOFOLLOW)
			unix.Close(at)
			return err == nil, nil
		}
		unix.Close(at)
		at = next
	}
	return false, unix.Close(at)
}

func (a *applier) implicitDirs() []string {
	dirs := make([]string, 0, len(a.implicit))
	for d := range a.implicit {
		dirs = append(dirs, d)
	}
	slices.Sort(dirs)
	return dirs
}

// splitName takes a clean relative name apart; dir is "" at the root.
func splitName(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

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
			next, err = step(at, part)
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

// step opens a real directory in an open one.
func step(at int, base string) (int, error) {
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
		return step(at, base)
	case err != nil:
		return -1, pathError("stat", prefix, err)
	case isWhiteout(&st):
		if err := a.reopen(at, base); err != nil {
			return -1, pathError("mkdir", prefix, err)
		}
		return step(at, base)
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

func pathErrorOrNil(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return pathError(op, name, err)
}

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

// fill copies a file's content. Long runs of zeros become holes, so that a sparse file stays one, and a file that claims
// to be huge costs no disk.
func (a *applier) fill(fd int, r io.Reader, size int64) error {
	var at int64
	hole := false
	for at < size {
		n, err := io.ReadFull(r, a.buf[:min(size-at, int64(len(a.buf)))])
		for done := 0; done < n; {
			end := done
			for end < n && !isHole(a.buf[end:min(end+holeChunk, n)]) {
				end = min(end+holeChunk, n)
			}
			if end > done {
				if err := pwriteAll(fd, a.buf[done:end], at+int64(done)); err != nil {
					return err
				}
				hole = false
				done = end
				continue
			}
			hole = true
			done = min(done+holeChunk, n)
		}
		at += int64(n)
		if err != nil {
			return err
		}
	}
	if hole {
		return unix.Ftruncate(fd, size)
	}
	return nil
}

var zeros [holeChunk]byte

// isHole tells whether b is a whole chunk of zeros.
func isHole(b []byte) bool {
	return len(b) == holeChunk && b[0] == 0 && b[len(b)-1] == 0 && bytes.Equal(b, zeros[:])
}

func pwriteAll(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
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

// setTimes gives directories their times when nothing comes into them any more.
func (a *applier) setTimes() error {
	a.forgetDirs()
	for _, name := range slices.Sorted(maps.Keys(a.times)) {
		dir, base := splitName(name)
		fd, ok := a.root, true
		if dir != "" {
			var err error
			if fd, err = a.resolve("/" + dir); err != nil { // another entry took its place
				ok = false
			}
		}
		if !ok {
			continue
		}
		err := unix.UtimesNanoAt(fd, base, timesOf(a.times[name]), unix.AT_SYMLINK_NOFOLLOW)
		if fd != a.root {
			unix.Close(fd)
		}
		if err != nil && err != unix.ENOENT {
			return pathError("set times of", name, err)
		}
	}
	return nil
}
