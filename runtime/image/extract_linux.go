package image

import (
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

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// extractLayer inflates blob and applies it to root, an empty directory, with overlayfs's kind of whiteouts. exactModes: the
// caller's umask is 0.
func extractLayer(ctx context.Context, blob io.Reader, root string, exactModes bool) (extracted, error) {
	stored, inflated := sha256.New(), sha256.New()
	src := io.TeeReader(ctxReader{ctx, blob}, stored)
	in, err := inflate(src, MaxUnpackedLayerSize)
	if err != nil {
		return extracted{}, err
	}
	defer in.Close()
	plain := io.TeeReader(in, inflated)
	a, err := newApplier(root, exactModes)
	if err != nil {
		return extracted{}, err
	}
	defer a.close()
	if err := a.apply(ctx, bufio.NewReaderSize(plain, 256<<10)); err != nil {
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
			xattrs, err := dirXattrs(filepath.Join(lower, name))
			if err != nil {
				return nil, err
			}
			if mode := st.Mode & 0o7777; mode != 0o755 || st.Uid != 0 || st.Gid != 0 || len(xattrs) > 0 {
				attrs = append(attrs, dirAttr{name, mode, st.Uid, st.Gid, xattrs})
			}
			break
		}
	}
	return attrs, nil
}

// dirXattrs reads what cleanXattrs keeps.
func dirXattrs(path string) (map[string][]byte, error) {
	n, err := unix.Llistxattr(path, nil)
	if err != nil || n == 0 {
		if err == unix.ENOTSUP {
			err = nil
		}
		return nil, err
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(path, list); err != nil {
		return nil, err
	}
	var out map[string][]byte
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if !keepXattr(name) {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = map[string][]byte{}
		}
		out[name] = value[:n]
	}
	return out, nil
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
		for name, value := range at.Xattrs {
			if err := unix.Lsetxattr(path, name, value, 0); err != nil && err != unix.ENOTSUP {
				return err
			}
		}
		if err := unix.Fchmodat(unix.AT_FDCWD, path, at.Mode, 0); err != nil {
			return err
		}
	}
	return nil
}

func syncFS(d *os.File) error { return unix.Syncfs(int(d.Fd())) }

// changed is when anything about the file changed last; a layer's tar cannot set it.
func changed(fi os.FileInfo) time.Time {
	st := fi.Sys().(*syscall.Stat_t)
	return time.Unix(st.Ctim.Unix())
}
