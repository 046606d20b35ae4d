package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	paxXattr       = "SCHILY.xattr."
	overlayOpaque  = "trusted.overlay.opaque"
)

// extractLayer inflates blob and applies it to root, an empty directory, with overlayfs's kind of whiteouts.
func extractLayer(ctx context.Context, blob io.Reader, root string) (extracted, error) {
	stored, inflated := sha256.New(), sha256.New()
	src := io.TeeReader(ctxReader{ctx, blob}, stored)
	in, err := inflate(src, MaxUnpackedLayerSize)
	if err != nil {
		return extracted{}, err
	}
	defer in.Close()
	plain := io.TeeReader(in, inflated)
	a := &applier{root: root, explicit: map[string]bool{}, implicit: map[string]bool{}, whiteouts: map[string]bool{}}
	_, err = archive.Apply(ctx, root, bufio.NewReaderSize(plain, 256<<10), archive.WithFilter(a.filter), archive.WithConvertWhiteout(a.whiteout))
	if err != nil {
		return extracted{}, err
	}
	// The tar ends before its padding does; both digests cover all.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return extracted{}, err
	}
	in.Close() // ends the decoder's goroutine, which shares src
	if _, err := io.Copy(io.Discard, src); err != nil {
		return extracted{}, err
	}
	return extracted{
		Digest: digest.NewDigest(digest.SHA256, stored), DiffID: digest.NewDigest(digest.SHA256, inflated), Implicit: a.implicitDirs(),
	}, nil
}

// applier sits between the tar and containerd's archive.Apply: limits, attributes that an image may not set, and the
// whiteouts that Apply leaves to its caller.
type applier struct {
	root    string
	entries int
	size    int64

	explicit  map[string]bool // directories (and whatever else) that have an entry, by clean name without leading slash
	implicit  map[string]bool // parents without one so far
	whiteouts map[string]bool // paths on disk where this layer put a whiteout
}

// filter sees every header first, with its name cleaned by Apply.
func (a *applier) filter(h *tar.Header) (bool, error) {
	if a.entries++; a.entries > MaxLayerEntries {
		return false, invalidf("more than %d entries", MaxLayerEntries)
	}
	if len(h.Name) > MaxEntryNameLength || len(h.Linkname) > MaxEntryNameLength {
		return false, invalidf("entry %d has a name of more than %d bytes", a.entries, MaxEntryNameLength)
	}
	if h.Size < 0 || h.Size > MaxUnpackedLayerSize-a.size { // sparse files: what they claim, not what they carry
		return false, invalidf("files of more than %d bytes together", int64(MaxUnpackedLayerSize))
	}
	a.size += h.Size
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return false, nil
	case tar.TypeGNUSparse, tar.TypeCont:
		h.Typeflag = tar.TypeReg
	case tar.TypeReg, '\x00', tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeBlock, tar.TypeChar, tar.TypeFifo:
	default:
		return false, invalidf("entry %q is of the unknown type %q", h.Name, h.Typeflag)
	}
	if err := cleanXattrs(h); err != nil {
		return false, err
	}
	name := strings.TrimPrefix(filepath.Join("/", h.Name), "/")
	if name == "" { // the root itself: overlayfs shows the upper directory's attributes anyway
		return false, nil
	}
	a.noteParents(name)
	return true, a.reopenParents(name)
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
		keep := name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_") ||
			strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
		if !keep {
			delete(h.PAXRecords, key)
		}
	}
	if size > MaxEntryHeaderSize {
		return invalidf("entry %q has %d bytes of extended attributes, at most %d", h.Name, size, MaxEntryHeaderSize)
	}
	return nil
}

func (a *applier) noteParents(name string) {
	for dir := parent(name); dir != "" && !a.explicit[dir] && !a.implicit[dir]; dir = parent(dir) {
		a.implicit[dir] = true
	}
	a.explicit[name] = true
	delete(a.implicit, name)
}

func parent(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ""
	}
	return name[:i]
}

func (a *applier) implicitDirs() []string {
	dirs := make([]string, 0, len(a.implicit))
	for d := range a.implicit {
		dirs = append(dirs, d)
	}
	slices.Sort(dirs)
	return dirs
}

// reopenParents turns a whiteout among name's parents back into a directory: the tar deleted it and now fills it anew.
func (a *applier) reopenParents(name string) error {
	if len(a.whiteouts) == 0 {
		return nil
	}
	for i := range name {
		if name[i] != '/' {
			continue
		}
		if err := a.reopen(filepath.Join(a.root, name[:i])); err != nil {
			return err
		}
	}
	return nil
}

// reopen replaces our whiteout at path by an opaque directory: what is below stays deleted, what comes now is seen.
func (a *applier) reopen(path string) error {
	if !a.whiteouts[path] {
		return nil
	}
	delete(a.whiteouts, path)
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	return unix.Lsetxattr(path, overlayOpaque, []byte{'y'}, 0)
}

// whiteout is called before an entry is written to path, whose parent is a real directory inside root. False: done.
// It is archive.OverlayConvertWhiteout for the plain cases, and keeps to the image specification in those that it fails
// or gets wrong: a whiteout hides lower layers only, never what its own layer holds, in whatever order they come.
func (a *applier) whiteout(h *tar.Header, path string) (bool, error) {
	base, dir := filepath.Base(path), filepath.Dir(path)
	if base == whiteoutOpaque {
		return archive.OverlayConvertWhiteout(h, path)
	}
	target, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok {
		if h.Typeflag == tar.TypeDir {
			return true, a.reopen(path)
		}
		delete(a.whiteouts, path) // Apply replaces it
		return true, nil
	}
	if strings.HasPrefix(target, whiteoutPrefix) { // aufs' own bookkeeping (.wh..wh.plnk and the like)
		return false, nil
	}
	hidden := filepath.Join(dir, target)
	fi, err := os.Lstat(hidden)
	switch {
	case err == nil && a.whiteouts[hidden]:
		return false, nil
	case err == nil && fi.IsDir():
		return false, unix.Lsetxattr(hidden, overlayOpaque, []byte{'y'}, 0)
	case err == nil: // a file of this layer hides the lower one already
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	a.whiteouts[hidden] = true
	return archive.OverlayConvertWhiteout(h, path)
}

// inheritedAttrs looks implicit directories up in the layers below, top first, and returns those whose attributes differ
// from the root:root 0755 that they have been given.
func inheritedAttrs(implicit, lowers []string) ([]dirAttr, error) {
	var attrs []dirAttr
	for _, name := range implicit {
		for _, lower := range slices.Backward(lowers) {
			st, err := lstatInside(lower, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if errors.Is(err, syscall.ENOTDIR) { // a file, link or whiteout: it hides what is below it
				break
			}
			if err != nil {
				return nil, err
			}
			if mode := st.Mode & 0o7777; mode != 0o755 || st.Uid != 0 || st.Gid != 0 {
				attrs = append(attrs, dirAttr{name, mode, st.Uid, st.Gid})
			}
			break
		}
	}
	return attrs, nil
}

// lstatInside looks at directory name in root. Links are not followed, because overlayfs does not when it merges: ENOTDIR
// if name or a parent of it is anything but a directory.
func lstatInside(root, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	for _, dir := range append(parentsOf(name), name) {
		if err := unix.Lstat(filepath.Join(root, dir), &st); err != nil {
			return st, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return st, syscall.ENOTDIR
		}
	}
	return st, nil
}

// applyAttrs gives root's implicit directories what they inherit.
func applyAttrs(root string, attrs []dirAttr) error {
	for _, at := range attrs {
		_, err := lstatInside(root, at.Path)
		if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrNotExist) { // a later entry took its place
			continue
		}
		if err != nil {
			return err
		}
		path := filepath.Join(root, at.Path)
		if err := os.Lchown(path, int(at.UID), int(at.GID)); err != nil {
			return err
		}
		if err := unix.Fchmodat(unix.AT_FDCWD, path, at.Mode, 0); err != nil {
			return err
		}
	}
	return nil
}

func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// changed is when anything about the file changed last; a layer's tar cannot set it.
func changed(fi os.FileInfo) time.Time {
	st := fi.Sys().(*syscall.Stat_t)
	return time.Unix(st.Ctim.Unix())
}
