package container

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// adoptPatience is how long a launcher that lost its agent may take to become a monitor or to end.
const adoptPatience = 10 * time.Second

// adopt reads every container from its directory, and removes what is none.
func (r *Runtime) adopt() error {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return err
	}
	var ids []string
	for _, e := range entries {
		id := runtime.ID(e.Name())
		if !e.IsDir() || !validID.MatchString(e.Name()) {
			r.log.Warn("not a container, left alone", "path", filepath.Join(r.cfg.Dir, e.Name()))
			continue
		}
		c, err := r.adoptOne(id)
		if err != nil {
			// One that cannot be read or removed must not keep the others from their node.
			r.log.Error("a container could not be adopted", "container", id, "err", err)
			continue
		}
		if c != nil {
			r.containers[id] = c
			ids = append(ids, string(id))
		}
	}
	var netErr error
	if r.cfg.Network != nil {
		addrs := map[string]netip.Addr{}
		for _, id := range ids {
			addrs[id] = r.containers[runtime.ID(id)].rec.Address
		}
		netErr = r.cfg.Network.Adopt(addrs)
	}
	if r.cfg.Volumes != nil {
		if err := r.cfg.Volumes.Adopt(ids); err != nil {
			// It costs no more than a volume that cannot be removed yet.
			r.log.Error("a volume still counts containers that are gone", "err", err)
		}
	}
	for _, id := range ids {
		r.adoptNetwork(r.containers[runtime.ID(id)])
	}
	if len(ids) == 0 {
		r.dropMonitorsCgroup()
	}
	return netErr
}

// adoptOne gives nil for a directory that was not a container and is removed.
func (r *Runtime) adoptOne(id runtime.ID) (_ *container, err error) {
	dir := r.containerDir(id)
	var rec stage.Record
	if err := stage.ReadJSON(dir, stage.FileRecord, &rec); isAbsent(err) {
		r.log.Info("removing a container that was half made or half removed", "container", id)
		return nil, r.wipe(context.Background(), id)
	} else if err != nil {
		return nil, err
	}
	c := newContainer(id, dir, rec)
	r.containers[id] = c // what follows asks for its cgroup
	defer func() {
		if err != nil {
			delete(r.containers, id)
		}
	}()
	if rec.UserBase != 0 {
		r.users[id] = rec.UserBase
	}
	if _, err := r.cfg.Images.Hold(rec.Image, string(id)); err != nil {
		r.log.Warn("the image of a container is gone; it cannot be started again", "container", id, "image", rec.Image, "err", err)
	}
	pidfd, pid, err := r.settle(dir)
	if err != nil {
		return nil, err
	}
	if err := stage.ReadJSON(dir, stage.FileStart, &c.start); err != nil && !isAbsent(err) {
		return nil, err
	}
	if err := stage.ReadJSON(dir, stage.FileExit, &c.exit); err != nil && !isAbsent(err) {
		return nil, err
	}
	if pid != 0 {
		frozen := r.isFrozen(id)
		r.setRunning(c, c.start, pidfd, pid, func() { c.paused = frozen }) // whoever listens later lists first
		return c, nil
	}
	if err := r.clearRun(id, dir); err != nil {
		r.log.Warn("clear what a run left", "container", id, "err", err)
	}
	switch {
	case c.start.Start == 0 && c.exit.Start == 0:
	case c.exit.Start >= c.start.Start:
		c.state = runtime.Stopped
	default:
		c.exit, c.state = r.writeLostExit(dir, id, c.start), runtime.Stopped
	}
	return c, nil
}

// settle gives the monitor's pidfd and pid, 0 if the container does not run. A launcher without its agent either takes
// everything back or, if it had the word already, becomes the monitor: it is waited for, and killed if it does neither.
func (r *Runtime) settle(dir string) (pidfd, pid int, err error) {
	deadline := time.Now().Add(adoptPatience)
	for {
		pidfd, pid, err = openMonitor(dir)
		if err != nil || pid == 0 || isMonitor(pid) {
			return pidfd, pid, err
		}
		waitReadable(pidfd, 5*time.Millisecond)
		unix.Close(pidfd)
		if time.Now().After(deadline) {
			r.log.Warn("a launcher hangs and is killed", "dir", dir, "pid", pid)
			return -1, 0, r.killMonitor(dir)
		}
	}
}

// isMonitor tells a monitor from a launcher.
func isMonitor(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(b) > len(stage.RoleMonitor) && string(b[:len(stage.RoleMonitor)]) == stage.RoleMonitor && b[len(stage.RoleMonitor)] == 0
}

// adoptNetwork takes address and ports from the network, which knows better than the record what the container has, and
// has it keep the namespace of what runs.
func (r *Runtime) adoptNetwork(c *container) {
	if r.cfg.Network == nil {
		return
	}
	c.mu.Lock()
	running, pid := c.state == runtime.Running, c.start.PID
	c.mu.Unlock()
	if running {
		if err := r.cfg.Network.Keep(string(c.id), pid); err != nil {
			r.log.Debug("connections of an adopted container may hang when it ends", "container", c.id, "err", err)
		}
	}
	ep, ok := r.cfg.Network.Endpoint(string(c.id))
	if !ok {
		return
	}
	if err := c.recordAddress(ep.Address.Addr()); err != nil {
		r.log.Warn("the address of an adopted container is not what is noted of it", "container", c.id, "address", ep.Address, "err", err)
	}
	if len(ep.Ports) > 0 {
		c.mu.Lock()
		c.ports = boundPorts(ep)
		c.mu.Unlock()
	}
}
