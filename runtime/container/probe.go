package container

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"shoal/runtime/container/stage"
)

// Feature is something of the machine that containers need or profit from.
type Feature struct {
	Name string
	OK   bool
	Lost string // what is missing without it
	// Needed: without it no container runs.
	Needed bool
	Why    string // it is not OK, where that is known
}

// Probe looks for what this package uses. It changes nothing and needs some milliseconds.
func Probe() []Feature {
	out := []Feature{
		{Name: "root", OK: os.Geteuid() == 0, Lost: "everything: containers need root"},
		{Name: "overlayfs", OK: knowsFilesystem("overlay"), Lost: "everything: images are overlaid layers"},
		{Name: "pidfd", OK: hasPidfd(), Lost: "everything: monitors are waited for by pidfd (Linux 5.3)"},
		{Name: "openat2", OK: hasOpenat2(), Lost: "everything: paths in images are resolved with openat2 (Linux 5.6)"},
		{Name: "seccomp", OK: hasSeccomp(), Lost: "everything: containers have a filter of system calls"},
		{Name: "overlay lowerdir+", OK: stage.OverlayTakesLowerdirPlus(), Lost: "images of more than about 150 layers (Linux 6.5)"},
		{Name: "mount_setattr", OK: stage.HasMountSetattr(), Lost: "read-only for what is mounted below a read-only bind mount (Linux 5.12)"},
		{Name: "CAP_SYS_RESOURCE", OK: stage.HasCapability(unix.CAP_SYS_RESOURCE), Lost: "more open files in containers than this process may have; monitors' protection from the out-of-memory killer"},
		{Name: "swap accounting", OK: hasController("memory") && stage.SwapAccounted(), Lost: "the limit on swap: a container may swap beyond its memory limit"},
	}
	for _, t := range []configs.NamespaceType{configs.NEWNS, configs.NEWPID, configs.NEWNET, configs.NEWIPC, configs.NEWUTS} {
		out = append(out, Feature{Name: "namespace " + strings.ToLower(strings.TrimPrefix(string(t), "NEW")), OK: configs.IsNamespaceSupported(t), Lost: "everything: containers have namespaces of their own"})
	}
	for _, c := range []struct{ name, lost string }{
		{"cpu", "cpu limits"},
		{"memory", "memory limits, and the news of lack of memory"},
		{"pids", "limits on processes"},
		{"freezer", "killing processes that somebody froze"},
	} {
		out = append(out, Feature{Name: "cgroup " + c.name, OK: hasController(c.name), Lost: c.lost})
	}
	if !cgroups.IsCgroup2UnifiedMode() {
		out = append(out, Feature{Name: "cgroup devices", OK: hasController("devices"), Lost: "everything: containers must be kept from devices"})
	}
	for i := range out {
		out[i].Needed = isNeeded(out[i].Lost)
	}
	return out
}

// knowsFilesystem asks for it first: that makes a kernel with modules load what it has not loaded yet.
func knowsFilesystem(name string) bool {
	if fd, err := unix.Fsopen(name, unix.FSOPEN_CLOEXEC); err == nil {
		unix.Close(fd)
		return true
	}
	b, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(b), "\t"+name+"\n")
}

func hasPidfd() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

func hasOpenat2() bool {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// hasSeccomp asks for a filter without giving one: EFAULT means that it would be taken (seccomp(2)).
func hasSeccomp() bool {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, 0)
	return errno == unix.EFAULT
}

func hasController(name string) bool {
	if !cgroups.IsCgroup2UnifiedMode() {
		st, err := os.Stat(filepath.Join(stage.CgroupRoot, name))
		return err == nil && st.IsDir()
	}
	if name == "freezer" {
		return true // part of v2 since Linux 5.2
	}
	b, err := os.ReadFile(filepath.Join(stage.CgroupRoot, "cgroup.controllers"))
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	for have := range strings.FieldsSeq(string(b)) {
		if have == name {
			return true
		}
	}
	return false
}
