package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A volume is filled aside: what is copied becomes part of it only when all of it is on disk, and by moves that replace
// nothing. So whatever is in a volume may be a user's, and nothing in it is ever deleted. Names of what stands aside, before
// the volume's own:
const (
	fillBegun = ".shoal-filling-" // being copied; worth nothing once its launcher has gone
	fillDone  = ".shoal-filled-"  // whole, on disk, and to be moved in, by whoever uses the volume next
)

// fillMark was in a volume while an earlier version filled it in place. What such a volume holds may be half of an image's
// files or a user's: the rest of the image's is added, and nothing replaced.
const fillMark = ".shoal-filling"

// filling is the fill of one volume.
type filling struct {
	data  *os.File // the volume
	in    *os.Root // the same
	aside *os.Root // where its fill is prepared: beside it or, if that is another file system, in it
	begun string   // names in aside
	done  string
	// progress is called again and again; its error ends the fill.
	progress func() error
	reach    func(Step)
}

func openFilling(v VolumeMount, progress func() error, reach func(Step)) (f *filling, err error) {
	f = &filling{begun: fillBegun + filepath.Base(v.Source), done: fillDone + filepath.Base(v.Source), progress: progress, reach: reach}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.data, err = os.Open(v.Source); err != nil {
		return nil, err
	}
	if f.in, err = os.OpenRoot(v.Source); err != nil {
		return nil, err
	}
	aside := filepath.Dir(v.Source)
	if !sameMount(aside, v.Source) { // nothing could be moved from there
		aside = v.Source
	}
	f.aside, err = os.OpenRoot(aside)
	return f, err
}

func (f *filling) close() {
	f.data.Close()
	for _, r := range []*os.Root{f.in, f.aside} {
		if r != nil {
			r.Close()
		}
	}
}

// sameMount tells whether a file can be renamed from one directory into the other.
func sameMount(a, b string) bool {
	var x, y unix.Statx_t
	const what = unix.STATX_MNT_ID // 0 on kernels before 5.8
	if unix.Statx(unix.AT_FDCWD, a, 0, what, &x) != nil || unix.Statx(unix.AT_FDCWD, b, 0, what, &y) != nil {
		return false
	}
	return x.Dev_major == y.Dev_major && x.Dev_minor == y.Dev_minor && x.Mnt_id == y.Mnt_id
}

// fillVolumes copies what the image has at a volume's place into a volume that is empty, as Docker does at first use. In
// root, the container's user 0 is seen as base; in the volume it is 0.
func fillVolumes(root string, vols []VolumeMount, base uint32, progress func() error, reach func(Step)) error {
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(rootFD)
	for _, v := range vols {
		if err := fillVolume(rootFD, v, int(base), progress, reach); err != nil {
			return fmt.Errorf("fill the volume at %s from the image: %w", v.Target, err)
		}
	}
	return nil
}

func fillVolume(rootFD int, v VolumeMount, base int, progress func() error, reach func(Step)) error {
	f, err := openFilling(v, progress, reach)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.settle(); err != nil {
		return err
	}
	if !v.Fill || v.Subpath != "" { // Docker's rule: a part of a volume is never filled
		return nil
	}
	src, err := openInRoot(rootFD, v.Target, unix.O_PATH|unix.O_DIRECTORY)
	if isAbsent(err) || errors.Is(err, unix.ENOTDIR) {
		return nil // the image has no directory there
	}
	if err != nil {
		return err
	}
	defer src.Close()
	if todo, err := f.wanted(); err != nil || !todo {
		return err
	}
	// Several containers may start with the same new volume at once. The lock goes with the descriptor.
	if err := f.lock(); err != nil {
		return err
	}
	if f.has(f.done) { // whoever had the lock was killed, or failed, before all was moved in
		return f.moveIn()
	}
	if todo, err := f.wanted(); err != nil || !todo {
		return err
	}
	return f.fill(src, base)
}

const lockPause = 50 * time.Millisecond

func (f *filling) lock() error {
	for {
		err := unix.Flock(int(f.data.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return fmt.Errorf("lock %s: %w", f.data.Name(), err)
		}
		if err := f.progress(); err != nil { // somebody else's is ours too
			return err
		}
		time.Sleep(lockPause)
	}
}

// wanted tells whether the volume is to be filled: it is empty, or an earlier version began to fill it.
func (f *filling) wanted() (bool, error) {
	if f.marked() {
		return true, nil
	}
	entries, err := fs.ReadDir(f.in.FS(), ".")
	for _, e := range entries {
		if e.Name() != f.begun && e.Name() != f.done {
			return false, err
		}
	}
	return err == nil, err
}

// marked tells whether an earlier version was cut short as it filled the volume.
func (f *filling) marked() bool {
	st, err := f.in.Lstat(fillMark)
	return err == nil && st.Mode().IsRegular() && st.Size() == 0
}

// fill copies the image's directory aside, and moves it in if the volume is still empty. The caller has the lock.
func (f *filling) fill(src *os.File, base int) error {
	if err := f.aside.RemoveAll(f.begun); err != nil {
		return err
	}
	defer func() { _ = f.aside.RemoveAll(f.begun) }() // whatever fails, the disk may be full
	if err := f.copyAside(src, base); err != nil {
		return err
	}
	f.reach("launch fill copied")
	if todo, err := f.wanted(); err != nil || !todo { // somebody has written meanwhile
		return err
	}
	if err := f.aside.Rename(f.begun, f.done); err != nil {
		return err
	}
	f.reach("launch fill complete")
	return f.moveIn()
}

// copyAside copies the image's directory, all of it to the disk.
func (f *filling) copyAside(src *os.File, base int) error {
	if err := f.aside.Mkdir(f.begun, 0o700); err != nil {
		return err
	}
	from, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", src.Fd()))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := f.aside.OpenRoot(f.begun)
	if err != nil {
		return err
	}
	defer to.Close()
	c := copier{from: from, to: to, links: map[[2]uint64]string{}, base: base, progress: f.progress}
	if err := c.dir("."); err != nil {
		return err
	}
	if err := unix.Syncfs(int(f.data.Fd())); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}
