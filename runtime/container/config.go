package container

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"

	"shoal/runtime/image"
	"shoal/runtime/network"
	"shoal/runtime/volume"
)

// DefaultCgroupParent is the cgroup under which those of containers are, when Config names none.
const DefaultCgroupParent = "shoal"

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
	// Self is the binary that is the init of containers which want one, and, without a Stage, started as launcher, exec
	// helper and monitor; it must call ReexecMain. It is opened once, so that its file may be replaced while we run.
	// Default: this process's own.
	Self string
	// Stage is the program stage/shoal-stage, compressed with gzip. It does what Self would do and starts faster, because
	// it is small. nil: Self does it.
	Stage []byte
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
