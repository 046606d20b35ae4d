package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// root is a container's file system as the container itself sees it. Every path is resolved by the kernel inside of it
// (openat2 with RESOLVE_IN_ROOT): absolute links, .., and whatever is renamed meanwhile never lead outside.
type root struct {
	dir  *os.File // for paths only
	base int      // of the container's users on the machine
	held []func()
	// wanted gives a word when somebody waits for this root to be closed, to start or remove the container; nil if nobody
	// ever does: the container runs.
	wanted <-chan struct{}
}

func (r *root) Close() {
	r.dir.Close()
	for _, release := range r.held {
		release()
	}
}

// openRoot is that of a process: with all that is mounted there.
func openRoot(pid int) (*root, error) {
	path := fmt.Sprintf("/proc/%d/root", pid)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &root{dir: os.NewFile(uintptr(fd), path)}, nil
}

// rootOf opens a container's file system. One that does not run cannot be started before it is closed.
func (r *Runtime) rootOf(ctx context.Context, id runtime.ID) (*root, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, err
	}
	for {
		r.refresh(c)
		if in := c.info(); in.State == runtime.Running {
			root, err := openRoot(in.PID)
			if r.refresh(c); c.info().PID == in.PID {
				if err == nil {
					root.base = int(c.rec.UserBase)
				}
				return root, err
			}
			if err == nil {
				root.Close() // it ended, and the number may be another's
			}
			continue
		}
		if err := c.await(ctx); err != nil {
			return nil, err
		}
		if r.refresh(c); c.info().State == runtime.Running {
			c.release()
			continue
		}
		root, err := r.mountStopped(ctx, c)
		if err != nil {
			c.release()
			return nil, err
		}
		root.held, root.wanted = append(root.held, c.release), c.wanted
		return root, nil
	}
}

// mountStopped mounts the file system of a container that does not run, with its volumes, where nobody else sees it: in a
// mount namespace made by a thread that ends, which the root keeps for as long as it is open.
func (r *Runtime) mountStopped(ctx context.Context, c *container) (*root, error) {
	job, err := r.launchJob(ctx, c, max(c.start.Start, c.exit.Start)+1)
	if err != nil {
		return nil, err
	}
	var out *root
	onLastThread(func() { out, err = mountAlone(job) })
	if err != nil {
		return nil, fmt.Errorf("open the files of container %s: %w", c.id, err)
	}
	return out, nil
}

func mountAlone(job stage.Launch) (*root, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts our own: %w", err)
	}
	target, err := stage.PlaceRoot(job)
	if err != nil {
		return nil, err
	}
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		ns.Close()
		return nil, &os.PathError{Op: "open", Path: target, Err: err}
	}
	r := &root{dir: os.NewFile(uintptr(fd), target), base: int(job.Record.UserBase), held: []func(){func() { ns.Close() }}}
	userNS := -1
	if r.base != 0 {
		f, err := stage.OpenUserNS(job.Record.UserBase)
		if err != nil {
			r.Close()
			return nil, err
		}
		defer f.Close()
		userNS = int(f.Fd())
	}
	for _, v := range directories(job) {
		if err := r.mount(v.Source, v.Subpath, v.Target, v.ReadOnly, userNS); err != nil {
			r.Close()
			return nil, err
		}
	}
	if job.Record.Spec.ReadOnly {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			r.Close()
			return nil, os.NewSyscallError("mount_setattr", err)
		}
	}
	return r, nil
}

// directories are those of the host that a start would mount, in its order.
func directories(job stage.Launch) []stage.VolumeMount {
	var out []stage.VolumeMount
	for _, m := range job.Record.Spec.Mounts {
		if m.Type == runtime.MountBind {
			out = append(out, stage.VolumeMount{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
		}
	}
	out = append(out, job.Volumes...)
	stage.ParentsFirst(out, func(v stage.VolumeMount) string { return v.Target })
	return out
}

// mount shows a directory of the host, or what is at subpath in it, at a place in the root. A place that is not there yet
// is made by the first start; until then there is nothing to see. userNS is of the container's own users, -1 for none.
func (r *root) mount(source, subpath, target string, readOnly bool, userNS int) error {
	at, err := r.open(target, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.Close()
	fd, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: source, Err: err}
	}
	from := os.NewFile(uintptr(fd), source)
	defer from.Close()
	if subpath != "" {
		below, err := (&root{dir: from}).open(subpath, unix.O_PATH)
		if err != nil {
			return err
		}
		defer below.Close()
		from = below
	}
	tree, err := unix.OpenTree(int(from.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	defer unix.Close(tree)
	var attr unix.MountAttr
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if userNS >= 0 {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(userNS)
	}
	if attr.Attr_set != 0 {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("show %s at %s: mount_setattr: %w", source, target, err)
		}
	}
	if err := unix.MoveMount(tree, "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("show %s at %s: %w", source, target, err)
	}
	return nil
}

// resolveTries bounds trying again when something was renamed while the kernel resolved a path with .. in it.
const resolveTries = 64

// open opens a path of the container. Links are followed as the container would, the last one too unless flags say
// O_NOFOLLOW.
func (r *root) open(name string, flags int) (*os.File, error) {
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NONBLOCK | unix.O_NOCTTY // whatever it turns out to be
	}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(r.dir.Fd()), rel, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path.Clean("/"+name)), nil
		case try < resolveTries && (err == unix.EAGAIN || err == unix.EINTR):
		default:
			return nil, &os.PathError{Op: "open", Path: path.Clean("/" + name), Err: err}
		}
	}
}

// parent opens the directory that holds a path, and gives the last element. The root's is ".".
func (r *root) parent(name string) (*os.File, string, error) {
	dir, base := path.Split(path.Clean("/" + name))
	if base == "" {
		base = "."
	}
	f, err := r.open(dir, unix.O_PATH|unix.O_DIRECTORY)
	return f, base, err
}

// pathKind gives errors of paths their kind.
func pathKind(err error) error {
	var p *os.PathError
	switch {
	case err == nil || !errors.As(err, &p):
		return kindOf(err)
	case errors.Is(err, fs.ErrNotExist):
		return stage.WithKind(runtime.ErrNotFound, err)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		return stage.WithKind(runtime.ErrInvalid, err)
	case errors.Is(err, unix.EROFS):
		return stage.WithKind(runtime.ErrDenied, err)
	}
	return kindOf(err)
}

// StatPath looks at one file.
func (r *Runtime) StatPath(ctx context.Context, id runtime.ID, name string) (runtime.PathStat, error) {
	root, err := r.rootOf(ctx, id)
	if err != nil {
		return runtime.PathStat{}, err
	}
	defer root.Close()
	st, err := root.stat(name)
	return st, pathKind(err)
}

func (r *root) stat(name string) (runtime.PathStat, error) {
	f, err := r.open(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return runtime.PathStat{}, err
	}
	defer f.Close()
	st, err := statOf(f)
	if err != nil || fs.FileMode(st.Mode)&fs.ModeSymlink == 0 {
		return st, err
	}
	if st.Link, err = readLink(f); err != nil {
		return st, err
	}
	if to, err := r.open(name, unix.O_PATH); err == nil {
		defer to.Close()
		if t, err := statOf(to); err == nil {
			st.Target = &t
		}
	}
	return st, nil
}

func statOf(f *os.File) (runtime.PathStat, error) {
	fi, err := f.Stat()
	if err != nil {
		return runtime.PathStat{}, err
	}
	return runtime.PathStat{Name: path.Base(f.Name()), Mode: uint32(fi.Mode()), Size: fi.Size(), ModAt: fi.ModTime().UTC().Truncate(time.Nanosecond)}, nil
}

// readLink reads the link that an O_PATH descriptor is of.
func readLink(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: f.Name(), Err: err}
	}
	return string(buf[:n]), nil
}
