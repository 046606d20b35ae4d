package fake

import (
	"context"
	"fmt"
	"io"

	"shoal/runtime"
)

// Exec runs a further program in a container.
func (m *machine) Exec(ctx context.Context, id runtime.ID, e runtime.Exec) (int, error) {
	if err := m.enter(ctx, CallExec, string(id), 0); err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	if len(e.Args) == 0 {
		return 0, fmt.Errorf("exec in %s: no command: %w", id, runtime.ErrInvalid)
	}
	m.mu.Lock()
	hook := m.onExec
	m.mu.Unlock()
	first, err := m.running(id)
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	out, errOut := writer(e.Stdout), writer(e.Stderr)
	if e.TTY {
		errOut = out
	}
	m.mu.Lock()
	paused := first.c.info.Paused
	m.mu.Unlock()
	if paused {
		return 0, fmt.Errorf("exec in %s: it is paused: %w", id, runtime.ErrConflict)
	}
	if hook != nil {
		if code, output, ok := hook(id, e.Args); ok {
			_, _ = io.WriteString(out, output)
			return code, nil
		}
	}
	if code, err := findProgram(e.Args[0]); err != nil {
		return code, fmt.Errorf("exec in %s: %w: %w", id, err, runtime.ErrInvalid)
	}

	m.mu.Lock()
	c := first.c
	if c.proc != first {
		m.mu.Unlock()
		return 0, fmt.Errorf("exec in %s: it ended: %w", id, runtime.ErrConflict)
	}
	p := c.processLocked(e.Args)
	p.env = mergeEnv(p.env, e.Env)
	if e.WorkingDir != "" {
		p.dir = e.WorkingDir
	}
	if e.User != "" {
		p.user = e.User
	}
	p.out, p.err = out, errOut
	if e.Stdin != nil {
		p.in = e.Stdin
	}
	c.execs[p] = struct{}{}
	m.mu.Unlock()

	if e.Started != nil {
		e.Started()
	}
	stop := context.AfterFunc(ctx, func() { p.kill(128 + 9) })
	ended := make(chan int, 1)
	m.programs.Go(func() {
		code := p.run(e.Args)
		m.mu.Lock()
		delete(c.execs, p)
		m.mu.Unlock()
		ended <- code
	})
	var code int
	select {
	case code = <-ended:
	case <-e.Leave:
		if stop() {
			return 0, fmt.Errorf("exec in %s: it was left to itself and goes on", id)
		}
		code = <-ended
	}
	if !stop() {
		return code, fmt.Errorf("exec in %s: %w", id, ctx.Err())
	}
	return code, nil
}

// writer makes nil discard.
func writer(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// Logs gives what the programs wrote.
func (m *machine) Logs(ctx context.Context, id runtime.ID, q runtime.LogQuery, line func(runtime.LogLine) error) error {
	m.mu.Lock()
	c := m.containers[id]
	if c == nil {
		m.mu.Unlock()
		return fmt.Errorf("logs of %s: %w", id, runtime.ErrNotFound)
	}
	lines, changed, none := c.lines, c.logCh, c.spec.Log.None
	m.mu.Unlock()
	if none {
		return fmt.Errorf("logs of %s: it keeps none: %w", id, runtime.ErrInvalid)
	}

	selected := lines
	if !q.Since.IsZero() {
		for len(selected) > 0 && selected[0].at.Before(q.Since) {
			selected = selected[1:]
		}
	}
	switch {
	case q.Tail < 0:
		selected = nil
	case q.Tail > 0 && q.Tail < len(selected):
		selected = selected[len(selected)-q.Tail:]
	}
	last := int64(0)
	if n := len(lines); n > 0 {
		last = lines[n-1].seq
	}
	for {
		for _, l := range selected {
			if err := line(runtime.LogLine{Time: l.at, Stream: l.stream, Text: []byte(l.text)}); err != nil {
				return err
			}
		}
		if !q.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
		selected, changed = c.lines, c.logCh
		removed := c.removed
		m.mu.Unlock()
		for len(selected) > 0 && selected[0].seq <= last {
			selected = selected[1:]
		}
		if n := len(selected); n > 0 {
			last = selected[n-1].seq
		} else if removed {
			return nil
		}
	}
}
