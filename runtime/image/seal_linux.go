package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// castagnoli runs at memory speed: sealing reads every file of a layer once, behind everybody's back.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealTree walks the tree. implicit is covered, too: what its description says of it. deep computes Content, too, which reads every file.
func sealTree(root string, implicit []string, deep bool) (seal, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return seal{}, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(fd)
	w := &sealer{root: fd, shape: sha256.New()}
	if deep {
		w.content, w.buf = sha256.New(), make([]byte, copyChunk)
	}
	for _, name := range implicit {
		w.note([]byte(name))
	}
	if err := w.dir("."); err != nil {
		return seal{}, fmt.Errorf("look through %s: %w", root, err)
	}
	out := seal{Shape: hex.EncodeToString(w.shape.Sum(nil)[:16])}
	if deep {
		out.Content = hex.EncodeToString(w.content.Sum(nil)[:16])
	}
	return out, nil
}

type sealer struct {
	root    int // O_PATH
	shape   hash.Hash
	content hash.Hash // nil: not asked for
	buf     []byte
	line    []byte
}

// dir notes what is in a directory, by its path from the root, and then looks into its directories: one descriptor is open
// at a time, however deep the tree is.
func (w *sealer) dir(name string) error {
	fd, err := unix.Openat2(w.root, name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return pathError("open", name, err)
	}
	d := os.NewFile(uintptr(fd), name)
	dirs, err := w.entries(d, fd, name)
	d.Close()
	if err != nil {
		return err
	}
	for _, base := range dirs {
		if err := w.dir(path.Join(name, base)); err != nil {
			return err
		}
	}
	return nil
}

func (w *sealer) entries(d *os.File, fd int, name string) (dirs []string, err error) {
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, pathError("read", name, err)
	}
	slices.Sort(names)
	w.note([]byte("in " + name))
	if w.content != nil {
		if err := w.attributes(fd); err != nil {
			return nil, pathError("read attributes of", name, err)
		}
	}
	for _, base := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, pathError("stat", path.Join(name, base), err)
		}
		w.noteFile(base, &st)
		kind := st.Mode & unix.S_IFMT
		switch {
		case kind == unix.S_IFDIR:
			dirs = append(dirs, base)
		case kind == unix.S_IFLNK:
			target, err := readlinkat(fd, base)
			if err != nil {
				return nil, pathError("readlink", path.Join(name, base), err)
			}
			w.note([]byte(target))
		case kind == unix.S_IFREG && w.content != nil:
			if err := w.file(fd, base); err != nil {
				return nil, pathError("read", path.Join(name, base), err)
			}
		}
	}
	return dirs, nil
}

// note adds one thing to both digests, with its length, so that no two lists of things look alike.
func (w *sealer) note(b []byte) {
	w.line = binary.AppendUvarint(w.line[:0], uint64(len(b)))
	w.line = append(w.line, b...)
	w.shape.Write(w.line)
	if w.content != nil {
		w.content.Write(w.line)
	}
}

func (w *sealer) noteFile(base string, st *unix.Stat_t) {
	size, mtime := st.Size, st.Mtim
	// A directory's size is its file system's affair; whiteouts and directories that the tar does not describe are as old as
	// their unpacking, and two trees of one layer must have one seal.
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFLNK {
		size, mtime = 0, unix.Timespec{}
	}
	b := append(make([]byte, 0, 96+len(base)), base...)
	for _, n := range []int64{int64(st.Mode), int64(st.Uid), int64(st.Gid), size, int64(st.Rdev), mtime.Sec, mtime.Nsec} {
		b = binary.AppendVarint(append(b, 0), n)
	}
	w.note(b)
}

// file adds a file's attributes and bytes to the content.
func (w *sealer) file(at int, base string) error {
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if err := w.attributes(fd); err != nil {
		return err
	}
	sum := uint32(0)
	for {
		n, err := f.Read(w.buf)
		sum = crc32.Update(sum, castagnoli, w.buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	w.content.Write(binary.BigEndian.AppendUint32(nil, sum))
	return nil
}

// attributes adds extended attributes to the content, sorted: those that unpacking sets.
func (w *sealer) attributes(fd int) error {
	n, err := unix.Flistxattr(fd, nil)
	if err != nil || n == 0 {
		if err == unix.ENOTSUP {
			err = nil
		}
		return err
	}
	list := make([]byte, n)
	if n, err = unix.Flistxattr(fd, list); err != nil {
		return err
	}
	names := strings.Split(string(bytes.TrimRight(list[:n], "\x00")), "\x00")
	slices.Sort(names)
	for _, name := range names {
		if !keepXattr(name) && name != overlayOpaque {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return err
		}
		fmt.Fprintf(w.content, "%q=%q ", name, value[:n])
	}
	return nil
}
