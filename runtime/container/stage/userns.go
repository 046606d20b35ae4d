package stage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// UserCount is how many users a container with users of its own has.
const UserCount = 1 << 16

func userMap(base uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: UserCount}}
}

// OpenUserNS makes a user namespace with the users from base on and gives a descriptor of it. Some process must be in it
// while its map is written; that one is gone afterwards.
func OpenUserNS(base uint32) (*os.File, error) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(base), Size: UserCount}}
	cmd := exec.Command(selfExe)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Ptrace: true, // it stops before its first instruction
		Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
}

// mapLayers shows image layers as owned by the container's own users: for each a mount in dir, which is made.
func mapLayers(layers []string, dir string, userNS int) ([]string, error) {
	out := make([]string, len(layers))
	for i, layer := range layers {
		fd, err := MapTree(layer, userNS)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer, err)
		}
		out[i] = filepath.Join(dir, fmt.Sprint(i))
		if err := attachTree(fd, out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// MapTree gives a detached copy of a directory's mount in which owners are those of a user namespace.
func MapTree(dir string, userNS int) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNS)})
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("map its owners (an idmapped mount): %w", err)
	}
	return fd, nil
}

// chownUpper makes the container's own layer its root's, once.
func chownUpper(job Launch) error {
	base := int(job.Record.UserBase)
	return errors.Join(os.Chown(filepath.Join(job.Dir, DirUpper), base, base), os.Chown(filepath.Join(job.Dir, DirWork), base, base))
}

// places are directories of every machine that can be covered in the launcher's own mount namespace: the way to a root
// file system must be open to the container's users, and the way to its directory is not. It must exist on the machine
// too, because libcontainer goes there before each exec.
var places = []string{"/mnt", "/srv", "/media", "/opt", "/dev/shm"}

// placeMappedRoot mounts the root file system of a container with users of its own.
func placeMappedRoot(job Launch) (string, error) {
	root, err := freePlace(job)
	if err != nil {
		return "", err
	}
	userNS, err := OpenUserNS(job.Record.UserBase)
	if err != nil {
		return "", err
	}
	defer userNS.Close()
	if job.Layers, err = mapLayers(job.Layers, filepath.Join(job.Dir, dirLayers), int(userNS.Fd())); err != nil {
		return "", err
	}
	if err := chownUpper(job); err != nil {
		return "", err
	}
	return root, mountRoot(root, job)
}

// dirLayers is where image layers are mounted with other owners, in the container's directory.
const dirLayers = "layers"

func freePlace(job Launch) (string, error) {
	for _, p := range places {
		used := func(m runtime.Mount) bool {
			return m.Type == runtime.MountBind && strings.HasPrefix(m.Source+"/", p+"/")
		}
		if st, err := os.Stat(p); err == nil && st.IsDir() && !slices.ContainsFunc(job.Record.Spec.Mounts, used) {
			return p, nil
		}
	}
	return "", Cannot("userns_mode", "auto", "there is no directory for the root file system: it wants one of "+strings.Join(places, ", "))
}
