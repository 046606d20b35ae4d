package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// Dialer connects to the server inside of a machine.
type Dialer func(ctx context.Context) (net.Conn, error)

func (d Dialer) ask(ctx context.Context, q Request) (net.Conn, *bufio.Reader, error) {
	c, err := d(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := writeLine(c, q); err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return c, bufio.NewReaderSize(c, 1<<20), nil
}

// answer reads one, which may be long.
func (d Dialer) answer(c net.Conn, r *bufio.Reader) (Answer, error) {
	var a Answer
	if err := readLine(r, &a); err != nil {
		_ = c.Close()
		return a, fmt.Errorf("no answer from the machine: %w", err)
	}
	if a.Error != "" {
		_ = c.Close()
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (d Dialer) once(ctx context.Context, q Request) (Answer, error) {
	c, r, err := d.ask(ctx, q)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	return d.answer(c, r)
}

// List asks for the machine's processes.
func (d Dialer) List(ctx context.Context) ([]Process, error) {
	a, err := d.once(ctx, Request{Op: opList})
	return a.Processes, err
}

// Pace tells how long Work takes on the machine.
func (d Dialer) Pace(ctx context.Context) (time.Duration, error) {
	a, err := d.once(ctx, Request{Op: opPace})
	return time.Duration(a.Took), err
}

// Kill sends a signal to a process of the machine.
func (d Dialer) Kill(ctx context.Context, pid, signal int) error {
	_, err := d.once(ctx, Request{Op: opKill, PID: pid, Signal: signal})
	return err
}

// Dial connects to an address as a program on the machine would.
func (d Dialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, r, err := d.ask(ctx, Request{Op: opDial, Network: network, Addr: addr})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	if _, err := d.answer(c, r); err != nil {
		stop()
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return &buffered{c.(*net.TCPConn), r}, nil
}

// buffered is a connection whose first bytes may have been read already.
type buffered struct {
	*net.TCPConn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// Put copies a file of the host to the machine, unless one of that path and size is there.
func (d Dialer) Put(ctx context.Context, from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	c, r, err := d.ask(ctx, Request{Op: opPut, Path: to, Mode: uint32(st.Mode().Perm()), Size: st.Size()})
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	if a, err := d.answer(c, r); err != nil || a.There {
		return err
	}
	if _, err := io.Copy(c, f); err != nil {
		return err
	}
	_, err = d.answer(c, r)
	return err
}

// Run runs a program on the machine and gives its exit code; started is told its process id there.
func (d Dialer) Run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer, started func(pid int)) (int, error) {
	c, r, err := d.ask(ctx, Request{Op: opRun, Args: args})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	f := &frames{w: c}
	go func() {
		_, _ = io.Copy(sender{f, frameIn}, in)
		_ = f.write(frameIn, nil)
	}()
	for {
		kind, p, err := readFrame(r)
		if err != nil {
			return 0, fmt.Errorf("the machine is gone: %w", err)
		}
		switch kind {
		case framePID:
			if pid, err := strconv.Atoi(string(p)); err == nil && started != nil {
				started(pid)
			}
		case frameOut:
			_, err = out.Write(p)
		case frameErr:
			_, err = errs.Write(p)
		case frameFailed:
			return 127, errors.New(string(p))
		case frameExit:
			return strconv.Atoi(string(p))
		}
		if err != nil {
			return 0, err
		}
	}
}
