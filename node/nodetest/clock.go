package nodetest

import (
	"sync"
	"time"
)

// clock is a machine's wall clock, which somebody sets. Its monotonic one, time.Now, is that of all.
type clock struct {
	mu   sync.Mutex
	skew time.Duration
}

// SetClock puts the machine's wall clock ahead of the true time, or behind it.
func (m *Machine) SetClock(ahead time.Duration) {
	m.clock.mu.Lock()
	defer m.clock.mu.Unlock()
	m.clock.skew = ahead
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.skew) // without a monotonic reading: who subtracts two of them sees the clock being set
}
