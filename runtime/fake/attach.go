package fake

import (
	"context"
	"fmt"
	"io"
	"sync"

	"shoal/runtime"
)

// member is one who is attached; the machine's mutex guards it.
type member struct {
	queue []func(a runtime.Attach) error
	more  chan struct{} // of one
}

func (mb *member) poke() {
	select {
	case mb.more <- struct{}{}:
	default:
	}
}

// tap passes a program's output to the log and to all who are attached.
type tap struct {
	lines  *lineWriter
	stream runtime.Stream
}

func (t tap) Write(p []byte) (int, error) {
	c, data := t.lines.c, append([]byte(nil), p...)
	c.m.mu.Lock()
	for mb := range c.members {
		mb.queue = append(mb.queue, func(a runtime.Attach) error {
			w := a.Stdout
			if t.stream == runtime.Stderr && !c.spec.TTY {
				w = a.Stderr
			}
			_, err := writer(w).Write(data)
			return err
		})
		mb.poke()
	}
	c.m.mu.Unlock()
	return t.lines.Write(p)
}

// Attach joins the caller to a container's streams.
func (m *machine) Attach(ctx context.Context, id runtime.ID, a runtime.Attach) (int, error) {
	for {
		m.mu.Lock()
		c := m.containers[id]
		if c == nil {
			m.mu.Unlock()
			return 0, fmt.Errorf("attach to %s: %w", id, runtime.ErrNotFound)
		}
		info, p, changed, kept := c.info, c.proc, c.changed, c.kept
		switch {
		case info.State == runtime.Created && p == nil:
			m.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			continue
		case p == nil && kept == nil && info.Error != "":
			m.mu.Unlock()
			return info.ExitCode, fmt.Errorf("attach to %s: %s: %w", id, info.Error, runtime.ErrInvalid)
		case p == nil && kept == nil:
			m.mu.Unlock()
			return 0, fmt.Errorf("attach to %s: it is not running: %w", id, runtime.ErrConflict)
		}
		mb := kept
		if c.kept = nil; mb == nil {
			mb = c.seatLocked()
		}
		in := c.stdin
		m.mu.Unlock()
		defer m.leave(c, mb)
		if a.Stdin != nil && in != nil && p != nil {
			go func() {
				if _, err := io.Copy(in, a.Stdin); err == nil && a.EndStdin {
					in.end()
				}
			}()
		}
		return m.deliver(ctx, c, p, mb, a)
	}
}

func (c *container) seatLocked() *member {
	mb := &member{more: make(chan struct{}, 1)}
	if c.members == nil {
		c.members = map[*member]struct{}{}
	}
	c.members[mb] = struct{}{}
	return mb
}

func (m *machine) leave(c *container, mb *member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(c.members, mb)
}

func (m *machine) deliver(ctx context.Context, c *container, p *process, mb *member, a runtime.Attach) (int, error) {
	gone := make(chan struct{})
	if p != nil {
		gone = p.gone
	} else {
		close(gone)
	}
	for over := false; ; {
		m.mu.Lock()
		queue := mb.queue
		mb.queue = nil
		code := c.info.ExitCode
		m.mu.Unlock()
		for _, pass := range queue {
			if err := pass(a); err != nil {
				return 0, fmt.Errorf("attach to %s: %w", c.spec.ID, err)
			}
		}
		if over {
			return code, nil
		}
		select {
		case <-mb.more:
		case <-gone:
			over = true
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// pipe is a container's standard input: as much as is written fits in.
type pipe struct {
	dead <-chan struct{}

	mu    sync.Mutex
	data  []byte
	ended bool
	more  chan struct{} // of one
}

func newPipe(dead <-chan struct{}) *pipe { return &pipe{dead: dead, more: make(chan struct{}, 1)} }

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.data = append(p.data, b...)
	p.poke()
	return len(b), nil
}

func (p *pipe) poke() {
	select {
	case p.more <- struct{}{}:
	default:
	}
}

func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.poke()
}

func (p *pipe) Read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		n := copy(b, p.data)
		p.data = p.data[n:]
		ended := p.ended
		p.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case ended:
			return 0, io.EOF
		}
		select {
		case <-p.more:
		case <-p.dead:
			return 0, io.EOF
		}
	}
}
