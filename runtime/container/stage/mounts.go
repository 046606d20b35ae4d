package stage

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// mounts are the fixed ones, the files in /etc, and the spec's: parents before children.
func mounts(job Launch, initSource string) []specs.Mount {
	var own []specs.Mount
	idmap := job.Record.UserBase != 0
	for _, m := range job.Record.Spec.Mounts {
		target := path.Clean(m.Target)
		switch m.Type {
		case runtime.MountBind:
			b := bindMount(bindSource(job, m), target, m.ReadOnly)
			propagate(&b, m)
			own = append(own, mapped(b, idmap))
		case runtime.MountTmpfs:
			own = append(own, tmpfsMount(target, m))
		}
	}
	for _, v := range job.Volumes {
		source := v.Source
		if v.Subpath != "" {
			source = subpathMount(job, v)
		}
		own = append(own, mapped(bindMount(source, path.Clean(v.Target), v.ReadOnly), idmap))
	}
	taken := map[string]bool{}
	for _, m := range own {
		taken[m.Destination] = true
	}
	out := slices.DeleteFunc(slices.Clone(baseMounts), func(m specs.Mount) bool { return taken[m.Destination] })
	if i := job.Record.Spec.Isolation; i != nil {
		out = isolatedMounts(out, job, i)
	}
	for _, f := range []string{FileHosts, FileHostname, FileResolv} {
		if target := "/etc/" + f; !taken[target] {
			m := mapped(bindMount(filepath.Join(job.Dir, f), target, job.Record.Spec.ReadOnly), idmap)
			if taken["/etc"] { // behind what would cover it
				own = append(own, m)
			} else {
				out = append(out, m)
			}
		}
	}
	if initSource != "" {
		out = append(out, bindMount(initSource, pathInit, true))
	}
	ParentsFirst(own, func(m specs.Mount) string { return m.Destination })
	return append(out, own...)
}

// ParentsFirst puts mounts into an order in which none covers another that belongs into it.
func ParentsFirst[M any](mounts []M, target func(M) string) {
	depth := func(m M) int { return strings.Count(path.Clean(target(m)), "/") }
	slices.SortStableFunc(mounts, func(a, b M) int { return depth(a) - depth(b) })
}

// isolatedMounts changes the fixed mounts where a namespace is not the container's own, or none.
func isolatedMounts(base []specs.Mount, job Launch, i *runtime.Isolation) []specs.Mount {
	var out []specs.Mount
	for _, m := range base {
		switch {
		case m.Destination == "/dev/shm" && i.IPC == runtime.ModeNone:
			continue
		case m.Destination == "/dev/shm" && i.IPC == runtime.ModeHost:
			m = bindMount("/dev/shm", "/dev/shm", false)
		case m.Destination == "/dev/shm" && runtime.Joined(i.IPC) != "":
			m = bindMount(filepath.Join(job.Dir, dirShm), "/dev/shm", false)
		case m.Destination == "/dev/mqueue" && i.IPC == runtime.ModeHost:
			if _, err := os.Stat("/dev/mqueue"); err != nil {
				continue
			}
			m = bindMount("/dev/mqueue", "/dev/mqueue", false)
		}
		out = append(out, m)
	}
	return out
}

func bindMount(source, target string, readOnly bool) specs.Mount {
	options := []string{"rbind", "rprivate"}
	if readOnly {
		options = append(options, "ro")
		if HasMountSetattr() {
			options = append(options, "rro") // what is mounted below the source as well
		}
	}
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: options}
}

// propagate says how mounts of later go between machine and container, and whether those of now come along.
func propagate(b *specs.Mount, m runtime.Mount) {
	if m.NoRecurse {
		b.Options[0] = "bind"
	}
	if m.Propagation != "" {
		b.Options[1] = m.Propagation
	}
}

// mapped shows the files of a mount as owned by the container's own users.
func mapped(m specs.Mount, idmap bool) specs.Mount {
	if idmap {
		m.Options = append(m.Options, "idmap")
	}
	return m
}

func tmpfsMount(target string, m runtime.Mount) specs.Mount {
	mode := m.Mode
	if mode == 0 {
		mode = 0o1777
	}
	options := []string{"nosuid", "nodev", "noexec", fmt.Sprintf("mode=%o", mode)}
	if m.SizeBytes > 0 {
		options = append(options, fmt.Sprintf("size=%d", m.SizeBytes))
	}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	if m.Options != "" {
		options = append(options, strings.Split(m.Options, ",")...) // a later flag wins
	}
	return specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs", Options: options}
}

// Places in the container's directory where the launcher, in its own mount namespace, puts what is then bound into it.
const (
	dirShm      = "shm"
	dirSubpaths = "subpaths"
	dirShared   = "shared"
)

func subpathMount(job Launch, v VolumeMount) string {
	return filepath.Join(job.Dir, dirSubpaths, mountName(v.Target))
}

// bindSource is the source itself, or, when mounts in the container are to reach the machine, a copy of it that was made
// before this process left the machine's propagation.
func bindSource(job Launch, m runtime.Mount) string {
	if isShared(m) {
		return filepath.Join(job.Dir, dirShared, mountName(m.Target))
	}
	return m.Source
}

func isShared(m runtime.Mount) bool {
	return m.Type == runtime.MountBind && strings.HasSuffix(m.Propagation, "shared")
}

// mountName makes a name of a path.
func mountName(target string) string { return strings.ReplaceAll(path.Clean(target)[1:], "/", "%2f") }

// rootPropagation is that of the container's root: it must let through what any of its mounts is to pass on.
func rootPropagation(s *runtime.Spec) string {
	out := ""
	for _, m := range s.Mounts {
		switch {
		case isShared(m):
			return "shared"
		case strings.HasSuffix(m.Propagation, "slave"):
			out = "rslave"
		}
	}
	return out
}

// sharedMounts are copies of the sources of shared binds, detached, still peers of the machine's.
type sharedMounts map[string]int // place -> descriptor

// openShared is called while this process still has the machine's propagation.
func openShared(job Launch) (sharedMounts, error) {
	var out sharedMounts
	for _, m := range job.Record.Spec.Mounts {
		if !isShared(m) {
			continue
		}
		flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
		if !m.NoRecurse {
			flags |= unix.AT_RECURSIVE
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
		if err != nil {
			return out, fmt.Errorf("volume %s: copy the mount of %s: %w", m.Target, m.Source, err)
		}
		if out == nil {
			out = sharedMounts{}
		}
		out[bindSource(job, m)] = fd
	}
	return out, nil
}

// prepareMounts puts in place what mounts() names and is not there by itself.
func prepareMounts(job Launch, shared sharedMounts) error {
	for place, fd := range shared {
		if err := attachTree(fd, place); err != nil {
			return fmt.Errorf("share a mount: %w", err)
		}
	}
	for _, v := range job.Volumes {
		if v.Subpath == "" {
			continue
		}
		fd, err := openSubpath(v)
		if err != nil {
			return err
		}
		if err := attachTree(fd, subpathMount(job, v)); err != nil {
			return fmt.Errorf("volume at %s: subpath %s: %w", v.Target, v.Subpath, err)
		}
	}
	if i := job.Record.Spec.Isolation; i != nil && runtime.Joined(i.IPC) != "" {
		return joinShm(job, job.Joined[runtime.Joined(i.IPC)])
	}
	return nil
}

// openSubpath opens a part of a volume; no link in it leads outside.
func openSubpath(v VolumeMount) (int, error) {
	dir, err := unix.Open(v.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("volume at %s: %w", v.Target, err)
	}
	defer unix.Close(dir)
	f, err := openInRoot(dir, v.Subpath, unix.O_PATH)
	if err != nil {
		return -1, Invalidf("volume at %s: subpath %s: %v; make it first", v.Target, v.Subpath, err)
	}
	defer f.Close()
	return unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
}

// attachTree mounts a detached tree at a place in the container's directory, which is made: a directory or a file, as the
// tree's root is.
func attachTree(fd int, place string) error {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.MkdirAll(place, 0o700); err != nil {
			return err
		}
	} else if f, err := os.OpenFile(place, os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return err
	} else {
		f.Close()
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", place, err)
	}
	return nil
}
