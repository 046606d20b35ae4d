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

// start runs fn, which calls raft. An error means that fn does not run.
func (l *Log) start(fn func() error) (<-chan error, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	if !l.calls.begin() {
		return nil, ErrClosed
	}
	done := make(chan error, 1)
	go func() {
		defer l.calls.end()
		done <- fn()
	}()
	return done, nil
}

// abandoned is an error of await: what was waited for goes on, and its result is lost.
type abandoned struct{ error }

func (a abandoned) Unwrap() error { return a.error }

// await waits for what start began, but no longer than ctx lasts, the log is open, and the node takes part.
func (l *Log) await(ctx context.Context, done <-chan error) error {
	for {
		changed := l.leading.changes()
		if err := l.usable(); err != nil {
			return abandoned{err}
		}
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return abandoned{context.Cause(ctx)}
		case <-l.endCh:
			return abandoned{ErrClosed}
		case <-changed:
		}
	}
}

// call is start and await, for calls that may be abandoned without harm.
func (l *Log) call(ctx context.Context, fn func() error) error {
	done, err := l.start(fn)
	if err != nil {
		return err
	}
	return l.await(ctx, done)
}

// usable says why the log takes no calls, nil when it does.
func (l *Log) usable() error {
	select {
	case <-l.endCh:
		return ErrClosed
	default:
	}
	if err := l.failure(); err != nil {
		return err
	}
	if out := l.out.Load(); out != nil {
		return out
	}
	return nil
}
