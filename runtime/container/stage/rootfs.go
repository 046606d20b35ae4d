package stage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// busyPatience is for the moment in which the overlay of the last run is still being taken down.
const busyPatience = 5 * time.Second

// mountRoot mounts the overlay of the image's layers and the container's own at target.
func mountRoot(target string, job Launch) error {
	upper, work := filepath.Join(job.Dir, DirUpper), filepath.Join(job.Dir, DirWork)
	layers := job.Layers
	if len(layers) == 0 { // an image without files: overlay wants one lower directory
		empty := filepath.Join(job.Dir, DirVolumes)
		layers = []string{empty}
	}
	deadline := time.Now().Add(busyPatience)
	for {
		err := mountOverlay(target, layers, upper, work)
		if errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err != nil {
			return fmt.Errorf("mount the root file system of %d layers: %w", len(job.Layers), err)
		}
		return nil
	}
}

// placeRoot mounts the root file system and tells where.
func placeRoot(job Launch) (string, error) {
	if job.Record.UserBase != 0 {
		return placeMappedRoot(job)
	}
	root := filepath.Join(job.Dir, DirRootfs)
	return root, mountRoot(root, job)
}

// mountOverlay takes layers lowest first.
func mountOverlay(target string, layers []string, upper, work string) error {
	err := mountOverlayNew(target, layers, upper, work)
	if errors.Is(err, errOldKernel) {
		return mountOverlayOld(target, layers, upper, work)
	}
	return err
}

// errOldKernel: overlay does not know "lowerdir+" (Linux before 6.5), or there is no fsopen (before 5.2).
var errOldKernel = errors.New("kernel too old")

// OverlayTakesLowerdirPlus tells whether overlay takes its layers one by one. Before 6.5 it had no parser of options of
// its own: fsconfig collects whatever it is given, nonsense too, and only the mount fails, with an error that names
// nothing. So whoever takes nonsense does not know "lowerdir+" either.
func OverlayTakesLowerdirPlus() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return unix.FsconfigSetString(fs, "shoal-nonsense", "/") != nil && unix.FsconfigSetString(fs, "lowerdir+", "/") == nil
}

func mountOverlayNew(target string, layers []string, upper, work string) error {
	if !OverlayTakesLowerdirPlus() {
		return errOldKernel
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fs)
	for i := len(layers) - 1; i >= 0; i-- { // overlay wants the topmost first
		if err := unix.FsconfigSetString(fs, "lowerdir+", layers[i]); err != nil {
			return fmt.Errorf("layer %s: %w%s", layers[i], err, kernelSays(fs))
		}
	}
	for _, o := range [][2]string{{"upperdir", upper}, {"workdir", work}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fmt.Errorf("%s %s: %w%s", o[0], o[1], err, kernelSays(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("overlay: %w%s", err, kernelSays(fs))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	return nil
}

// kernelSays reads the messages that the kernel left in a file system context.
func kernelSays(fs int) string {
	var out []string
	buf := make([]byte, 1024)
	for range 16 {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		out = append(out, strings.TrimSpace(string(buf[:n])))
	}
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, "; ") + ")"
}

// mountOverlayOld uses mount(2), whose options must fit into a page: descriptors are shorter than paths.
func mountOverlayOld(target string, layers []string, upper, work string) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	short := func(dir string) (string, error) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("open %s: %w", dir, err)
		}
		fds = append(fds, fd)
		return fmt.Sprintf("/proc/self/fd/%d", fd), nil
	}
	var lower []string
	for i := len(layers) - 1; i >= 0; i-- {
		p, err := short(layers[i])
		if err != nil {
			return err
		}
		lower = append(lower, p)
	}
	u, err := short(upper)
	if err != nil {
		return err
	}
	w, err := short(work)
	if err != nil {
		return err
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + u + ",workdir=" + w
	if len(options) >= os.Getpagesize() {
		return Invalidf("%d layers do not fit into the options of mount on this kernel: Linux 6.5 or later takes them", len(layers))
	}
	return unix.Mount("overlay", target, "overlay", 0, options)
}

// open fails if the file was replaced or deleted since the agent was started.
func (b Binary) open() (int, error) {
	fd, err := unix.Open(b.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var here unix.Stat_t
	if err := unix.Fstat(fd, &here); err != nil || here.Ino != b.Ino || here.Dev != b.Dev {
		unix.Close(fd)
		return -1, fmt.Errorf("%s is another file now: %w", b.Path, unix.ESTALE)
	}
	return fd, nil
}

// sealBinary gives a path at which the binary can be read but, whatever its mount flags, never written: an overlay
// without an upper directory. A container that gets it as PID 1 must not be able to change the host's file.
func sealBinary(b Binary, mnt string) (string, error) {
	fd, err := b.open()
	if err != nil {
		return copyBinary(mnt)
	}
	unix.Close(fd)
	options := "lowerdir=" + escapeOverlay(filepath.Dir(b.Path)) + ":" + escapeOverlay(mnt)
	if err := unix.Mount("overlay", mnt, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return copyBinary(mnt) // it lies on a file system that cannot be a lower layer
	}
	return filepath.Join(mnt, filepath.Base(b.Path)), nil
}

func escapeOverlay(path string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(path)
}

// copyBinary copies the running binary to a tmpfs that only the container sees.
func copyBinary(mnt string) (string, error) {
	if err := unix.Mount("tmpfs", mnt, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
		return "", fmt.Errorf("mount a place for the init binary: %w", err)
	}
	from, err := os.Open(selfExe)
	if err != nil {
		return "", err
	}
	defer from.Close()
	path := filepath.Join(mnt, "init")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o555)
	if err != nil {
		return "", err
	}
	_, err = to.ReadFrom(from)
	if err := errors.Join(err, to.Close()); err != nil {
		return "", fmt.Errorf("copy the init binary: %w", err)
	}
	return path, unix.Mount("", mnt, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}
