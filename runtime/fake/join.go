package fake

import (
	"fmt"
	"net/netip"

	"shoal/runtime"
)

// joinLocked finds the containers whose namespaces this one joins, and takes the address of the one whose network it has.
func (c *container) joinLocked() error {
	joined := map[runtime.ID]int{}
	for _, id := range c.spec.Joins() {
		other := c.m.containers[id]
		if other == nil || other.proc == nil {
			return fmt.Errorf("join container %s: it does not run: %w", id, runtime.ErrBusy)
		}
		joined[id] = other.info.Starts
		if runtime.Joined(c.spec.Network) == id {
			c.info.Address = other.info.Address
		}
	}
	if len(joined) > 0 {
		c.info.Joined = joined // never changed: infos share it
	}
	return nil
}

// addressLocked is the next one, for a container with a network of its own.
func (m *machine) addressLocked(s runtime.Spec) netip.Addr {
	if s.Network != "" {
		return netip.Addr{}
	}
	a := m.nextAddr
	m.nextAddr = m.nextAddr.Next()
	if !m.subnet.Contains(m.nextAddr) {
		m.nextAddr = m.subnet.Masked().Addr().Next().Next() // addresses are only labels here: begin anew
	}
	return a
}
