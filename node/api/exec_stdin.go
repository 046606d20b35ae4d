package api

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"shoal/consensus/job"
)

// stdinBuffer holds what the client sent and the process has not read. It never blocks the writer: its bound is the
// credit that the client has.
type stdinBuffer struct {
	credit func(n int) // tells the client that it may send so much more

	mu    sync.Mutex
	ready *sync.Cond
	buf   []byte // at most stdinWindow bytes
	read  int    // bytes that the process read and the client got no credit for yet
	end   error  // what Read gives once buf is empty; nil: more may come
}

func newStdinBuffer(credit func(n int)) *stdinBuffer {
	b := &stdinBuffer{credit: credit}
	b.ready = sync.NewCond(&b.mu)
	return b
}

// add takes what the client sent. An error means that it sent more than it may.
func (b *stdinBuffer) add(p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end != nil {
		return nil // nobody will read it
	}
	if len(b.buf)+b.read+len(p) > stdinWindow {
		return job.Errorf(job.Invalid, "exec stream: the client sent more than the %d bytes of stdin that may be under way", stdinWindow)
	}
	b.buf = append(b.buf, p...)
	b.ready.Broadcast()
	return nil
}

// finish ends the stream: what is buffered can still be read, then err. The first call counts.
func (b *stdinBuffer) finish(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.end = err
	}
	b.ready.Broadcast()
}

// Read is the process's side. Credit goes out in large steps, so that it costs little.
func (b *stdinBuffer) Read(p []byte) (int, error) {
	n, credit, err := b.take(p)
	if credit > 0 {
		b.credit(credit) // without the lock: it may wait for a client that does not read
	}
	return n, err
}

func (b *stdinBuffer) take(p []byte) (n, credit int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.buf) == 0 && b.end == nil {
		b.ready.Wait()
	}
	if len(b.buf) == 0 {
		return 0, 0, b.end
	}
	n = copy(p, b.buf)
	if b.buf = b.buf[n:]; len(b.buf) == 0 {
		b.buf = nil
	}
	b.read += n
	if b.read >= stdinWindow/4 {
		credit, b.read = b.read, 0
	}
	return n, credit, nil
}

// Close ends the stream for a process that is gone.
func (b *stdinBuffer) Close() error {
	b.finish(io.ErrClosedPipe)
	return nil
}

func creditFrame(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// allowance is how much stdin the client may send at the moment.
type allowance struct {
	mu      sync.Mutex
	changed *sync.Cond
	bytes   int
	over    bool
}

func newAllowance() *allowance {
	a := &allowance{bytes: stdinWindow}
	a.changed = sync.NewCond(&a.mu)
	return a
}

var errExecOver = errors.New("the command has ended")

// spend waits for leave to send, and gives how much of want may go.
func (a *allowance) spend(want int) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.bytes == 0 && !a.over {
		a.changed.Wait()
	}
	if a.over {
		return 0, errExecOver
	}
	n := min(want, a.bytes)
	a.bytes -= n
	return n, nil
}

func (a *allowance) grant(frame []byte) {
	if len(frame) != 4 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes = int(min(int64(a.bytes)+int64(binary.BigEndian.Uint32(frame)), stdinWindow))
	a.changed.Broadcast()
}

// end lets a sender that waits give up.
func (a *allowance) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	a.changed.Broadcast()
}

// paced sends stdin no faster than the server takes it.
type paced struct {
	out   *frameWriter
	leave *allowance
}

func (p paced) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		n, err := p.leave.spend(min(len(b), maxFrameBytes))
		if err == nil {
			err = p.out.write(frameStdin, b[:n])
		}
		if err != nil {
			return total - len(b), err
		}
		b = b[n:]
	}
	return total, nil
}
