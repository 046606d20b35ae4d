package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"shoal/runtime/container/stage"
)

// ProbeIn is Probe, and what depends on the file system of the directory in which containers and images are to be. It
// leaves nothing there; dir need not exist.
func ProbeIn(dir string) []Feature {
	out := Probe()
	for dir = filepath.Clean(dir); !isDir(dir) && dir != "/"; {
		dir = filepath.Dir(dir)
	}
	add := func(name, lost string, err error) {
		f := Feature{Name: name, OK: err == nil, Lost: lost, Needed: isNeeded(lost)}
		if err != nil {
			f.Why = err.Error()
		}
		out = append(out, f)
	}
	add("cgroup v2", "memory.high, PSI and one tree for all controllers; v1 does the rest", orNot(cgroups.IsCgroup2UnifiedMode(), cgroupVersion()+" is mounted"))
	for _, c := range []struct{ name, lost string }{
		{"cpuset", "`cpuset`"}, {"blkio", "`blkio_config`"}, {"io weights", "weights of `blkio_config`; rates work"},
	} {
		have := hasController(c.name) || c.name == "blkio" && hasController("io") || c.name == "io weights" && stage.HasIOWeight()
		add("cgroup "+c.name, c.lost, orNot(have, "no such controller"))
	}
	add("overlay on "+dir, "everything: a container's own layer lies there", tryOverlay(dir))
	userNS, err := stage.OpenUserNS(firstUser)
	add("user namespaces", "users of a container's own (`userns_mode: auto`)", err)
	if err == nil {
		fd, err := stage.MapTree(dir, int(userNS.Fd()))
		add("idmapped mounts on "+dir, "users of a container's own (`userns_mode: auto`)", err)
		if err == nil {
			unix.Close(fd)
		}
		userNS.Close()
	}
	add("apparmor", "profiles of `security_opt: apparmor=…`; those jobs are refused here", orNot(hasAppArmor(), "the kernel runs without"))
	add("memfd exec", "the fast start: the small program for it is executed from memory", tryMemfdExec())
	add("PSI", "figures of pressure on CPU, memory and IO", readable1("/proc/pressure/memory"))
	add("swap", "swap for containers with `memswap_limit`", orNot(hasSwap(), "there is none"))
	add("bfq", "weights of block IO on cgroup v1", orNot(cgroups.IsCgroup2UnifiedMode() || stage.HasIOWeight(), "the kernel lacks that scheduler"))
	return out
}

func orNot(ok bool, why string) error {
	if ok {
		return nil
	}
	return errors.New(why)
}

func isNeeded(lost string) bool { return strings.HasPrefix(lost, "everything") }

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func cgroupVersion() string {
	if cgroups.IsCgroup2HybridMode() {
		return "cgroup v1 with v2 beside it (hybrid)"
	}
	return "cgroup v1"
}

func readable1(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1)) // PSI that is switched off says so here
	return err
}

func hasSwap() bool {
	b, err := os.ReadFile("/proc/swaps")
	return err == nil && strings.Count(string(b), "\n") > 1
}

// tryOverlay makes an overlay of two empty directories below dir, and mounts it nowhere.
func tryOverlay(dir string) error {
	place, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(place)
	options := map[string]string{"lowerdir": "lower", "upperdir": "upper", "workdir": "work"}
	for key, name := range options {
		options[key] = filepath.Join(place, name)
		if err := os.Mkdir(options[key], 0o700); err != nil {
			return err
		}
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err == unix.ENOSYS {
		return nil // cannot be tried without mounting it
	}
	if err != nil {
		return fmt.Errorf("open the file system: %w", err)
	}
	defer unix.Close(fs)
	for key, value := range options {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("the file system there cannot be an overlay's upper layer: %w", err)
	}
	return nil
}

// tryMemfdExec looks whether memory may be executed (vm.memfd_noexec, Linux 6.3).
func tryMemfdExec() error {
	fd, err := unix.MemfdCreate("shoal-probe", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before that it always may
		fd, err = unix.MemfdCreate("shoal-probe", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	return unix.Close(fd)
}
