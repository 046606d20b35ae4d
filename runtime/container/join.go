package container

import (
	"fmt"
	"net/netip"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// findJoined finds the containers whose namespaces this one joins. ErrBusy while one of them does not run.
func (r *Runtime) findJoined(c *container, job *stage.Launch) error {
	for _, id := range c.rec.Spec.Joins() {
		other, err := r.find(id)
		if err != nil {
			return stage.WithKind(runtime.ErrBusy, fmt.Errorf("join container %s: there is none", id))
		}
		r.refresh(other)
		other.mu.Lock()
		state, start, addr := other.state, other.start, other.rec.Address
		other.mu.Unlock()
		if state != runtime.Running {
			return stage.WithKind(runtime.ErrBusy, fmt.Errorf("join container %s: it does not run", id))
		}
		if job.Joined == nil {
			job.Joined, job.JoinedStarts = map[runtime.ID]int{}, map[runtime.ID]int{}
		}
		job.Joined[id], job.JoinedStarts[id] = start.PID, start.Start
		if runtime.Joined(c.rec.Spec.Network) == id {
			job.JoinedAddress = addr
		}
	}
	return nil
}

// stillJoined tells whether the containers that were joined still run as they did: if one has ended meanwhile, its process
// may have been another's by the time its namespaces were opened.
func (r *Runtime) stillJoined(job *stage.Launch) error {
	for id, start := range job.JoinedStarts {
		other, err := r.find(id)
		if err == nil {
			r.refresh(other)
			other.mu.Lock()
			same := other.state == runtime.Running && other.start.Start == start
			other.mu.Unlock()
			if _, _, statErr := stage.ProcessStat(job.Joined[id]); same && statErr == nil {
				continue
			}
		}
		return stage.WithKind(runtime.ErrBusy, fmt.Errorf("join container %s: it has ended meanwhile", id))
	}
	return nil
}

// joinedAddress is the address of the container whose network is joined; invalid if there is none.
func (r *Runtime) joinedAddress(s *runtime.Spec) netip.Addr {
	id := runtime.Joined(s.Network)
	if id == "" {
		return netip.Addr{}
	}
	other, err := r.find(id)
	if err != nil {
		return netip.Addr{}
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	if other.state != runtime.Running { // it may be in the making
		return netip.Addr{}
	}
	return other.rec.Address
}

// endShared kills what a container leaves behind when its first process has ended. With a process namespace of its own the
// kernel has done it.
func (r *Runtime) endShared(c *container) {
	if i := c.rec.Spec.Isolation; i == nil || i.PID == "" {
		return
	}
	if err := r.killCgroup(c.id); err != nil {
		r.log.Warn("kill what a container left running", "container", c.id, "err", err)
	}
}
