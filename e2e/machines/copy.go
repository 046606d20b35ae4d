package machines

import (
	"context"
	"time"
)

// CopyIn makes a file of the host a file of the machine that is on, with its mode, and with the directories above it.
func (m *Machine) CopyIn(from, to string) error {
	ctx, cancel := context.WithTimeout(context.Background(), m.net.Patience(time.Minute))
	defer cancel()
	return m.net.driver.copyIn(ctx, m, from, to)
}
