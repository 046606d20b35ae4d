package image

import (
	"archive/tar"
	"context"
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
	// implicitBytes is what the names in implicit take in a report.
	implicitBytes int64

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
		a.implicitBytes += reportBytes(dir)
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
		if a.implicit[name] {
			a.implicitBytes -= reportBytes(name)
			delete(a.implicit, name)
		}
	}
}

// reportBytes is the most that a name can take in a list in JSON, with its quotes and comma.
func reportBytes(name string) int64 {
	n := int64(3)
	for i := range len(name) {
		switch b := name[i]; {
		case b < ' ', b >= 0x7f, b == '<', b == '>', b == '&': // \u003c
			n += 6
		case b == '"', b == '\\':
			n += 2
		default:
			n++
		}
	}
	return n
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
		next, err := stepInto(at, part)
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
