package consensus

import (
	"context"
	"sync"
	"time"
)

// calls counts calls into raft. Raft's futures know no context, and some are never answered once it has shut down, so
// each runs on a goroutine of its own and closing waits for them first.
type calls struct {
	mu     sync.Mutex
	n      int
	ending bool
	idle   chan struct{} // made by drain, closed when n reaches 0
}

func (c *calls) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return false
	}
	c.n++
	return true
}

func (c *calls) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if c.n == 0 && c.idle != nil {
		close(c.idle)
	}
}

// drain takes no more calls and waits for those under way, at most for patience.
func (c *calls) drain(patience time.Duration) {
	c.mu.Lock()
	c.ending = true
	if c.n == 0 {
		c.mu.Unlock()
		return
	}
	c.idle = make(chan struct{})
	c.mu.Unlock()
	select {
	case <-c.idle:
	case <-time.After(patience):
	}
}

// call runs fn and waits for it, but no longer than ctx lasts, the log is open, and the node takes part. fn may go on
// after call has returned; then its result is lost, and the error says why: ctx's cause, ErrClosed, or a *DiskError.
func (l *Log) call(ctx context.Context, fn func() error) error {
	if err := l.usable(); err != nil {
		return err
	}
	if !l.calls.begin() {
		return ErrClosed
	}
	done := make(chan error, 1)
	go func() {
		defer l.calls.end()
		done <- fn()
	}()
	for {
		changed := l.leading.changes()
		if err := l.usable(); err != nil {
			return err
		}
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return contextError(ctx)
		case <-l.endCh:
			return ErrClosed
		case <-changed:
		}
	}
}

// usable says why the log takes no calls, nil when it does.
func (l *Log) usable() error {
	select {
	case <-l.endCh:
		return ErrClosed
	default:
	}
	if err := l.disk.failure(); err != nil {
		return err
	}
	if out := l.out.Load(); out != nil {
		return out
	}
	return nil
}
