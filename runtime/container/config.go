package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"shoal/runtime/image"
	"shoal/runtime/network"
	"shoal/runtime/volume"
)

// DefaultCgroupParent is the cgroup under which those of containers are, when Config names none.
const DefaultCgroupParent = "shoal"

// selfExe is this process's binary, also after its file was replaced or deleted.
const selfExe = "/proc/self/exe"

// Config says what New needs. Dir and Images are required.
type Config struct {
	// Dir holds one directory for each container. It must be on a local file system that can be an overlay's upper layer.
	Dir string
	// StateDir is for libcontainer's state; it may be lost with a reboot. Default: "run" beside Dir.
	StateDir string
	// Images are where root file systems come from.
	Images *image.Store
	// Network gives addresses and ports. nil: containers have a loopback interface only.
	Network *network.Network
	// Volumes are the named ones. nil: a spec that names one is refused.
	Volumes *volume.Store
	// CgroupParent is a path below the root of every hierarchy. Default DefaultCgroupParent.
	CgroupParent string
	// Self is the binary that is started as launcher and monitor; it must call ReexecMain. It is opened once, so that
	// its file may be replaced while we run. Default: this process's own.
	Self string
	// PullFrom makes an image present that is not: peers first, then the registry. nil: what is not present is not found.
	PullFrom func(ctx context.Context, ref string, progress func(done, total int64)) error
	// Nameservers of containers. Empty: the network's gateway; without a network the host's.
	Nameservers []netip.Addr
	// Search are the domains that are tried for short names, in order.
	Search []string
	// ResolvOptions are the options of resolv.conf, such as "ndots:0".
	ResolvOptions []string
	// Logger gets repairs and what happened to containers. Default: discarded.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("container runtime: no directory given")
	}
	if c.Images == nil {
		return c, errors.New("container runtime: no image store given")
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return c, err
	}
	if c.StateDir == "" {
		c.StateDir = filepath.Join(filepath.Dir(c.Dir), "run")
	}
	if c.StateDir, err = filepath.Abs(c.StateDir); err != nil {
		return c, err
	}
	if c.CgroupParent == "" {
		c.CgroupParent = DefaultCgroupParent
	}
	c.CgroupParent = strings.Trim(filepath.Clean("/"+c.CgroupParent), "/")
	if c.CgroupParent == "" {
		return c, errors.New("container runtime: the cgroup parent is the root cgroup: name one below it")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// openSelf gives a path that always leads to the binary as it is now.
func (c Config) openSelf() (string, *os.File, error) {
	if c.Self == "" {
		return selfExe, nil, nil
	}
	f, err := os.OpenFile(c.Self, unix.O_PATH, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open the launcher's binary: %w", err)
	}
	// Through our own pid, not "self": the child resolves it between fork and exec, when its own low descriptors are
	// being rearranged (golang.org/issue/61751).
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()), f, nil
}
