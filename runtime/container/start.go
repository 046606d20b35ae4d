package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
	"shoal/runtime/network"
	"shoal/runtime/volume"
)

// startLimit bounds a start but for the filling of volumes, and each step of that: a launcher that hangs (a dead network
// file system under a bind mount) must not hold the container's op for ever.
var startLimit = 2 * time.Minute // a variable for tests

// Start runs a created or stopped container.
func (r *Runtime) Start(ctx context.Context, id runtime.ID) (runtime.Info, error) {
	c, err := r.hold(ctx, id)
	if err != nil {
		return runtime.Info{}, err
	}
	defer c.release()
	r.refresh(c)
	c.mu.Lock()
	state, number := c.state, max(c.start.Start, c.exit.Start)+1
	c.mu.Unlock()
	if state == runtime.Running {
		return c.info(), conflictf("start container %s: it is running", id)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(startLimit, func() { cancel(fmt.Errorf("it took more than %v: %w", startLimit, context.DeadlineExceeded)) })
	defer limit.Stop()
	if err := r.startOnce(ctx, c, number, func() { limit.Reset(startLimit) }); err != nil {
		if cause := context.Cause(ctx); errors.Is(err, context.Canceled) && !errors.Is(cause, context.Canceled) {
			err = fmt.Errorf("%w: %w", runtime.ErrBusy, cause) // nobody gave up: the limit did
		}
		err = kindOf(fmt.Errorf("start container %s: %w", id, err))
		var le *stage.Refusal
		if errors.As(err, &le) && le.Code != 0 {
			r.recordFailedStart(c, number, le)
		}
		return c.info(), err
	}
	return c.info(), nil
}

// startOnce calls goesOn when the launcher tells that it is at what may take long.
func (r *Runtime) startOnce(ctx context.Context, c *container, number int, goesOn func()) (err error) {
	lease, err := c.leaseForStart()
	if err != nil {
		return err
	}
	r.expectMoves()
	if err := r.clearRun(c.id, c.dir); err != nil {
		return fmt.Errorf("clear what the last run left: %w", err)
	}
	reach("start cleared")
	if err := r.readdress(c); err != nil {
		return err
	}
	job, err := r.launchJob(ctx, c, number)
	if err != nil {
		return err
	}
	job.Lease = lease
	if err := r.writeEtc(c); err != nil {
		return err
	}
	kept, err := r.keepOutput(c)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && kept != nil {
			kept.close()
		}
	}()
	reach("start etc")
	l, out, err := r.pool.take()
	defer r.pool.done()
	if err != nil {
		return err
	}
	defer l.sock.Close()
	// Until the launcher said that the command runs, an end of ours is an end of its: it sees the socket close.
	stop := context.AfterFunc(ctx, func() { l.sock.SetDeadline(time.Now()) })
	defer stop()
	defer func() {
		if err != nil {
			l.abandon()
			if cerr := errors.Join(r.clearRun(c.id, c.dir), c.forgetStart(number)); cerr != nil {
				r.log.Warn("a failed start left something behind", "container", c.id, "err", cerr)
			}
			if cause := context.Cause(ctx); cause != nil {
				err = fmt.Errorf("%w: %w", runtime.ErrBusy, cause)
			}
		}
	}()
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		if !out {
			r.leaveAgentsCgroup(l.pid)
		}
	}()
	defer func() { <-moved }() // the pid is its own until then: whoever waits for it comes later
	l.reach("start launcher", 0)
	if err := l.send(job); err != nil {
		return err
	}
	l.reach("start job sent", 0)
	parked, ports, err := r.park(ctx, c, l, goesOn)
	if err != nil {
		return err
	}
	if err := r.stillJoined(&job); err != nil {
		return err
	}
	l.reach("start attached", parked.PID)
	<-moved // from here on it outlives us

	l.reach("start moved", parked.PID)
	if err := l.send(stage.Word{}); err != nil { // go
		return err
	}
	running, err := l.receive()
	if err != nil {
		return err
	}
	l.reach("start running", parked.PID)
	pidfd, err := unix.PidfdOpen(l.pid, 0)
	if err != nil {
		return fmt.Errorf("open the monitor: %w", err)
	}
	if lease > 0 {
		awaitMonitor(l.pid)
	}
	r.log.Info("container started", "container", c.id, "pid", parked.PID, "start", number)
	start := stage.StartRecord{Start: number, PID: parked.PID, At: *running.Started, Joined: job.JoinedStarts, Address: job.JoinedAddress}
	r.setRunning(c, start, pidfd, l.pid, func() {
		if ports != nil {
			c.ports = ports
		}
		if lease > 0 && c.until > lease { // renewed while it was started
			_ = stage.SendLease(pidfd, c.until) // that it ended already is noticed as of any
		}
		if kept != nil {
			go kept.run(c.ended)
		}
		r.events.publish(runtime.Event{Kind: runtime.EventStarted, ID: c.id, At: start.At})
	})
	return nil
}

// park waits until the launcher has the first process parked, and attaches it to the network: while the launcher is at it,
// if there is a process early enough.
func (r *Runtime) park(ctx context.Context, c *container, l *helper, goesOn func()) (parked stage.Reply, ports []runtime.Port, err error) {
	for parked, err = l.receive(); err == nil && parked.Filling; parked, err = l.receive() {
		goesOn()
	}
	if err != nil || parked.Attach == 0 {
		if err == nil {
			ports, err = r.attach(ctx, c, parked.PID)
		}
		return parked, ports, err
	}
	attached := make(chan error, 1)
	go func(pid int) {
		var aerr error
		ports, aerr = r.attach(ctx, c, pid)
		attached <- aerr
	}(parked.Attach)
	parked, err = l.receive()
	aerr := <-attached // also after an error: nothing may still be at work for a start that failed
	if err == nil {
		err = aerr
	}
	return parked, ports, err
}

// forgetStart takes back the launcher's note of a start that failed after it was written.
func (c *container) forgetStart(number int) error {
	var noted stage.StartRecord
	if err := stage.ReadJSON(c.dir, stage.FileStart, &noted); err != nil || noted.Start != number {
		return nil // there is none, or it is of an earlier one
	}
	c.mu.Lock()
	before := c.start
	c.mu.Unlock()
	if before.Start == 0 {
		return os.Remove(filepath.Join(c.dir, stage.FileStart))
	}
	return stage.WriteJSON(c.dir, stage.FileStart, before)
}

// setRunning notes a run whose monitor is behind pidfd, and begins to watch it. All under one lock: nobody sees the run,
// and so nobody can end it and close pidfd, before it is watched and announce was called.
func (r *Runtime) setRunning(c *container, start stage.StartRecord, pidfd, monitor int, announce func()) {
	c.mu.Lock()
	c.state, c.start, c.pidfd, c.monitor = runtime.Running, start, pidfd, monitor
	c.ended, c.killed, c.paused = make(chan struct{}), false, false
	err := r.watch.add(pidfd, func() { r.finish(c) })
	announce()
	c.tellLocked()
	c.mu.Unlock()
	if err != nil {
		r.log.Warn("exits of a container are noticed only when it is asked for", "container", c.id, "err", err)
	}
	r.watchOOM(c, start.Start)
}

// launchJob gathers what the launcher must know.
func (r *Runtime) launchJob(ctx context.Context, c *container, number int) (stage.Launch, error) {
	img, err := r.cfg.Images.Get(c.rec.Image)
	if err != nil {
		return stage.Launch{}, err
	}
	layers, err := r.layers(ctx, img)
	if err != nil {
		return stage.Launch{}, err
	}
	job := stage.Launch{
		ID: c.id, Start: number, Dir: c.dir, StateDir: r.cfg.StateDir, Cgroup: r.cgroupPath(c.id),
		Record: c.rec, Layers: layers, HasNetwork: r.cfg.Network != nil && c.rec.Spec.Network == "",
		Self: r.program.self,
	}
	if err := r.findJoined(c, &job); err != nil {
		return stage.Launch{}, err
	}
	for _, m := range c.rec.Spec.Mounts {
		switch m.Type {
		case runtime.MountVolume:
			if m.Source == "" {
				continue // below
			}
			if r.cfg.Volumes == nil {
				return stage.Launch{}, stage.Invalidf("volume %s: this node has no volumes", m.Source)
			}
			dir, err := r.cfg.Volumes.Use(m.Source, string(c.id))
			if err != nil {
				return stage.Launch{}, err
			}
			job.Volumes = append(job.Volumes, stage.VolumeMount{Source: dir, Target: m.Target, ReadOnly: m.ReadOnly, Fill: !m.NoCopy, Subpath: m.Subpath})
		case runtime.MountBind:
			if _, err := volume.Resolve(volume.Bind{Source: m.Source, CreateHostPath: m.CreateHostPath}); err != nil {
				return stage.Launch{}, err
			}
		}
	}
	for i, target := range anonymousVolumes(c.rec) {
		v := stage.VolumeMount{Source: filepath.Join(c.dir, stage.DirVolumes, fmt.Sprint(i)), Target: target, Fill: number == 1}
		for _, m := range c.rec.Spec.Mounts {
			if path.Clean(m.Target) == target {
				v.ReadOnly, v.Fill = m.ReadOnly, v.Fill && !m.NoCopy
			}
		}
		job.Volumes = append(job.Volumes, v)
	}
	return job, nil
}

// readdress has the record tell the address that the run is going to have. It is the recorded one but when that was lost:
// it is another's by now, or the node has another subnet.
func (r *Runtime) readdress(c *container) error {
	if r.cfg.Network == nil || c.rec.Spec.Network != "" {
		return nil
	}
	addr, err := r.cfg.Network.Reserve(string(c.id))
	if err != nil {
		return err
	}
	reach("start leased")
	return c.recordAddress(addr)
}

// attach joins the parked process's network namespace to the network. Ports that an earlier run got are asked for again.
func (r *Runtime) attach(ctx context.Context, c *container, pid int) ([]runtime.Port, error) {
	if r.cfg.Network == nil || c.rec.Spec.Network != "" {
		return nil, nil
	}
	c.mu.Lock()
	want := slices.Clone(c.ports)
	c.mu.Unlock()
	a := network.Attachment{ID: string(c.id), PID: pid, Hostname: stage.Hostname(c.rec.Spec)}
	if n := c.rec.Spec.Naming; n != nil {
		a.MAC, _ = net.ParseMAC(n.MAC) // checked at Create
		for _, d := range n.DNS {
			if addr, err := netip.ParseAddr(d); err == nil {
				a.DNS = append(a.DNS, addr)
			}
		}
	}
	for _, p := range want {
		a.Ports = append(a.Ports, network.Port{HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: p.Protocol})
	}
	ep, err := r.cfg.Network.Attach(ctx, a)
	if err != nil {
		return nil, err
	}
	return boundPorts(ep), nil
}

func boundPorts(ep network.Endpoint) []runtime.Port {
	ports := make([]runtime.Port, len(ep.Ports))
	for i, p := range ep.Ports {
		host := p.HostIP
		if host.IsUnspecified() {
			host = netip.Addr{}
		}
		ports[i] = runtime.Port{HostIP: host, HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: p.Protocol}
	}
	return ports
}

// recordFailedStart puts down that the command could not be executed: the container is Stopped, as the contract says.
func (r *Runtime) recordFailedStart(c *container, number int, le *stage.Refusal) {
	now := time.Now().UTC()
	start := stage.StartRecord{Start: number, At: now}
	exit := stage.ExitRecord{Start: number, Code: le.Code, At: now, Error: le.Text}
	if err := errors.Join(stage.WriteJSON(c.dir, stage.FileExit, exit), stage.WriteJSON(c.dir, stage.FileStart, start)); err != nil {
		r.log.Warn("the note of a failed start is not on disk", "container", c.id, "err", err)
	}
	c.mu.Lock()
	c.start, c.exit, c.state = start, exit, runtime.Stopped
	c.tellLocked()
	c.mu.Unlock()
	r.events.publish(runtime.Event{Kind: runtime.EventExited, ID: c.id, At: now})
}

// waitReadable waits until fd has something to tell, at most so long.
func waitReadable(fd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(max(0, time.Until(deadline).Milliseconds())))
		if n > 0 {
			return true
		}
		if err != unix.EINTR || time.Now().After(deadline) {
			return false
		}
	}
}

// clearRun removes what a run leaves: processes, cgroup, libcontainer's state. The network's lease stays: the next run
// has the same address.
func (r *Runtime) clearRun(id runtime.ID, dir string) error {
	if err := r.killMonitor(dir); err != nil {
		return err
	}
	if err := r.removeCgroup(id); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(r.cfg.StateDir, string(id)))
}

// killMonitor ends the launcher or monitor of a directory, if there is one.
func (r *Runtime) killMonitor(dir string) error {
	pidfd, pid, err := openMonitor(dir)
	if err != nil || pid == 0 {
		return err
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill monitor %d: %w", pid, err)
	}
	if !waitReadable(pidfd, killPatience) {
		return fmt.Errorf("monitor %d is still there %v after it was killed", pid, killPatience)
	}
	unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return nil
}
