package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"shoal/consensus/job"
	"shoal/node"
	"shoal/runtime"
	"shoal/runtime/container"
	"shoal/runtime/image"
	"shoal/runtime/network"
	"shoal/runtime/volume"
)

// machineMaker puts the real runtime together: the one place that knows all of its parts.
func machineMaker(cgroupParent string, settings imageConfig, reserve job.Resources) func(node.MachineConfig) (*node.Machine, error) {
	return func(cfg node.MachineConfig) (*node.Machine, error) {
		images, err := image.Open(image.Config{Dir: filepath.Join(cfg.Dir, "images"), Logger: cfg.Logger.With("part", "images"), UnpackCommand: container.UnpackCommand(), Registries: settings.registries})
		if err != nil {
			return nil, err
		}
		net, err := network.New(network.Config{Dir: filepath.Join(cfg.Dir, "network"), Pool: cfg.Pool, Logger: cfg.Logger.With("part", "network")})
		if err != nil {
			return nil, err
		}
		volumes, err := volume.Open(filepath.Join(cfg.Dir, "volumes"))
		if err != nil {
			return nil, err
		}
		containers, err := container.New(container.Config{
			Dir: filepath.Join(cfg.Dir, "containers"), Images: images, Network: net, Volumes: volumes, CgroupParent: cgroupParent,
			PullFrom: puller(images, cfg.PullFromPeers), ResolvOptions: []string{"ndots:0"}, Logger: cfg.Logger.With("part", "containers"),
			Stage: stageProgram,
		})
		if err != nil {
			return nil, err
		}
		info, err := describeMachine(cfg.Dir, reserve)
		if err != nil {
			return nil, err
		}
		m := &node.Machine{Runtime: containers, Network: &tellNetwork{Network: net, log: cfg.Logger}, Images: images, Info: info}
		m.Usage = diskParts(cfg.Dir, containers)
		m.Run = func(ctx context.Context) error {
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return net.Run(ctx) })
			g.Go(func() error { return containers.Run(ctx) })
			return g.Wait()
		}
		return m, nil
	}
}

// puller asks the other nodes first and the image's registry second.
func puller(images *image.Store, peers func(context.Context, string) error) func(context.Context, string, func(done, total int64)) error {
	return func(ctx context.Context, ref string, progress func(done, total int64)) error {
		peerErr := peers(ctx, ref)
		if peerErr == nil {
			return nil
		}
		name, err := image.ParseName(ref)
		if err != nil {
			return fmt.Errorf("%w: %w", runtime.ErrInvalid, err)
		}
		opts := image.PullOptions{}
		if progress != nil {
			opts.Progress = func(p image.Progress) { progress(p.BytesDone, p.Bytes) }
		}
		if _, err := images.Pull(ctx, name, opts); err != nil {
			return fmt.Errorf("%w; and no other node has it", err)
		}
		return nil
	}
}

// tellNetwork sets the network up when the node has learnt its subnet. Afterwards the network looks after itself.
type tellNetwork struct {
	*network.Network
	log *slog.Logger
	up  atomic.Bool
}

func (t *tellNetwork) Configure(ctx context.Context, subnet netip.Prefix) error {
	if t.up.Load() && t.Subnet() == subnet {
		return nil
	}
	if t.Subnet() != subnet {
		if err := t.SetSubnet(subnet); err != nil {
			return err
		}
	}
	if err := t.Setup(ctx); err != nil {
		return err
	}
	t.log.Info("container network", "subnet", subnet)
	t.up.Store(true)
	return nil
}

// What a machine keeps for itself: the kernel, the agent, the admin's shell.
const (
	reservedMemory  = 256 << 20
	reservedPercent = 5
)

// describeMachine reads what the scheduler may give away, and what people ask for. A negative reserve is the default.
func describeMachine(dir string, reserve job.Resources) (job.Node, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return job.Node{}, fmt.Errorf("describe this machine: %w", err)
	}
	memory, err := memoryBytes()
	if err != nil {
		return job.Node{}, fmt.Errorf("describe this machine: %w", err)
	}
	n := job.Node{OS: osName(), Arch: goruntime.GOARCH, Kernel: unix.ByteSliceToString(u.Release[:])}
	n.Attributes = machineAttributes(dir, goruntime.NumCPU(), memory)
	if reserve.MemoryBytes < 0 {
		reserve.MemoryBytes = min(memory/2, max(reservedMemory, memory*reservedPercent/100))
	}
	n.Capacity = job.Resources{
		NanoCPUs: max(int64(goruntime.NumCPU())*1e9-reserve.NanoCPUs, 0), MemoryBytes: max(memory-reserve.MemoryBytes, 0), PIDs: pidLimit() / 2,
	}
	return n, nil
}

func memoryBytes() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemTotal")
}

// pidLimit is the kernel's; the traditional default when it cannot be read.
func pidLimit() int64 {
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			return n
		}
	}
	return 32768
}

// osName is the distribution's own name for itself.
func osName() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "linux"
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "linux"
}
