package container

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// maxCopyDepth bounds the directories below each other in one copy: each is an open descriptor.
const maxCopyDepth = 256

// CopyOut writes a tar archive of a file or a directory.
func (r *Runtime) CopyOut(ctx context.Context, id runtime.ID, c runtime.CopyOut, to io.Writer) error {
	root, err := r.rootOf(ctx, id)
	if err != nil {
		return err
	}
	if root.wanted == nil {
		defer root.Close()
		return root.pack(ctx, id, c, to)
	}
	// Who writes to the client holds nothing: a write takes as long as the client likes.
	out, in := io.Pipe()
	ctx, over := root.giveWay(ctx, id, func(err error) { in.CloseWithError(err) })
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		in.CloseWithError(root.pack(ctx, id, c, in)) // the first reason stays
		root.Close()
	}()
	_, err = io.Copy(to, out)
	out.Close() // the client's end is the packer's
	over()
	<-packed
	return err
}

// pack writes the archive.
func (r *root) pack(ctx context.Context, id runtime.ID, c runtime.CopyOut, to io.Writer) error {
	flags := unix.O_PATH
	if !c.Follow {
		flags |= unix.O_NOFOLLOW
	}
	f, err := r.open(c.Path, flags)
	if err != nil {
		return pathKind(fmt.Errorf("copy from container %s: %w", id, err))
	}
	defer f.Close()
	name := path.Base(path.Clean("/" + c.Path))
	if name == "/" {
		name = "."
	}
	p := packer{ctx: ctx, base: r.base, tar: tar.NewWriter(to), links: map[inode]string{}}
	if err := p.add(f, name, 0); err != nil {
		return pathKind(fmt.Errorf("copy from container %s: %w", id, err))
	}
	return p.tar.Close()
}

// packer writes an archive. It holds what it packs by descriptors, so that nothing changes under its hands.
type packer struct {
	ctx     context.Context
	base    int // of the container's users
	tar     *tar.Writer
	links   map[inode]string // files with several names, by the first one
	entries int
}

type inode struct{ dev, ino uint64 }

// add packs what an O_PATH descriptor is of.
func (p *packer) add(f *os.File, name string, depth int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if p.entries++; p.entries > runtime.MaxCopyEntries {
		return stage.Invalidf("more than %d files", runtime.MaxCopyEntries)
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		return nil // nothing that an archive could hold
	}
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if link, err = readLink(f); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	h.Uid, h.Gid = max(0, h.Uid-p.base), max(0, h.Gid-p.base)
	h.Name, h.Uname, h.Gname, h.Format = name, "", "", tar.FormatPAX // names would be the node's
	if fi.IsDir() {
		h.Name += "/"
	}
	st, many := sysOf(fi)
	if many && h.Typeflag == tar.TypeReg {
		if first, ok := p.links[st]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.tar.WriteHeader(h)
		}
		p.links[st] = name
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	switch {
	case h.Typeflag == tar.TypeReg:
		return p.content(f, h.Size)
	case fi.IsDir() && !isKernels(f):
		return p.children(f, name, depth)
	}
	return nil
}

// reopen gives a readable descriptor of the same file.
func reopen(f *os.File, flags int) (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// content packs as much as the header said: a file that shrinks meanwhile is filled up with zeros.
func (p *packer) content(f *os.File, size int64) error {
	in, err := reopen(f, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := io.CopyN(p.tar, reader{p.ctx, in}, size)
	if errors.Is(err, io.EOF) {
		_, err = io.CopyN(p.tar, zeros{}, size-n)
	}
	return err
}

func (p *packer) children(f *os.File, name string, depth int) error {
	if depth == maxCopyDepth {
		return stage.Invalidf("%s: more than %d directories below each other", name, maxCopyDepth)
	}
	dir, err := reopen(f, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(runtime.MaxCopyEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	slices.Sort(names)
	for _, child := range names {
		fd, err := unix.Openat(int(dir.Fd()), child, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue // removed meanwhile
		}
		if err != nil {
			return &os.PathError{Op: "open", Path: path.Join(f.Name(), child), Err: err}
		}
		c := os.NewFile(uintptr(fd), path.Join(f.Name(), child))
		err = p.add(c, strings.TrimPrefix(name+"/"+child, "./"), depth+1)
		c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func sysOf(fi fs.FileInfo) (inode, bool) {
	st, ok := fi.Sys().(*unixStat)
	if !ok {
		return inode{}, false
	}
	return inode{uint64(st.Dev), st.Ino}, st.Nlink > 1
}

// isKernels tells a directory on a file system that holds no files but the kernel's own words: proc, sysfs, cgroups.
func isKernels(f *os.File) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil {
		return false
	}
	return slices.Contains([]int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEVPTS_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.TRACEFS_MAGIC, mqueueMagic}, int64(st.Type))
}

const mqueueMagic = 0x19800202 // ipc/mqueue.c

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
