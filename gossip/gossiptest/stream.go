package gossiptest

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// streamBuffer is how many bytes a stream holds for its reader before writing blocks.
	streamBuffer = 256 << 10
	// backlog is how many dialed streams wait for Accept.
	backlog = 128
)

type listener struct {
	net    *Network
	addr   netip.AddrPort
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Listen opens a stream listener at addr; port 0 means any free one.
func (n *Network) Listen(addr netip.AddrPort) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr = n.portLocked(addr)
	if n.listeners[addr] != nil {
		return nil, inUse("tcp", addr)
	}
	l := &listener{net: n, addr: addr, queue: make(chan net.Conn, backlog), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, l.failed("accept")
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, l.failed("accept")
	}
}

func (l *listener) Close() error {
	err := l.failed("close")
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr)
		l.net.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.queue:
				c.(*conn).abort(syscall.ECONNRESET)
				continue
			default:
			}
			break
		}
		err = nil
	})
	return err
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

func (l *listener) failed(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}

// Dialer returns a function that dials from the given host.
func (n *Network) Dialer(from netip.Addr) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) { return n.Dial(ctx, from, addr) }
}

// Dial opens a stream from a host to ip:port. Without a listener there it is refused; across a cut it waits until ctx
// ends or the network heals.
func (n *Network) Dial(ctx context.Context, from netip.Addr, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	n.mu.Lock()
	there, back := newFlow(n, from, to.Addr()), newFlow(n, to.Addr(), from)
	n.flows[there], n.flows[back] = struct{}{}, struct{}{}
	src := n.portLocked(netip.AddrPortFrom(from, 0))
	roundTrip := 2 * n.latency
	n.mu.Unlock()
	local := &conn{in: back, out: there, local: src, remote: to, read: newDeadline(), write: newDeadline()}
	remote := &conn{in: there, out: back, local: to, remote: src, read: newDeadline(), write: newDeadline()}

	roundTrip += n.resendDelay(firstSYN)
	if err := there.waitUp(ctx, back, roundTrip); err != nil {
		local.abort(err)
		return fail(err)
	}
	n.mu.Lock()
	l := n.listeners[to]
	n.mu.Unlock()
	if l == nil {
		local.abort(syscall.ECONNREFUSED)
		return fail(syscall.ECONNREFUSED)
	}
	select {
	case l.queue <- remote:
	case <-l.closed:
		local.abort(syscall.ECONNREFUSED)
		return fail(syscall.ECONNREFUSED)
	case <-ctx.Done():
		local.abort(ctx.Err())
		return fail(ctx.Err())
	}
	select {
	case <-l.closed: // it may have emptied its queue before we put ours in
		local.abort(syscall.ECONNRESET)
		return fail(syscall.ECONNRESET)
	default:
	}
	return local, nil
}

// conn is one end of a stream: what comes in and what goes out.
type conn struct {
	in, out       *flow
	local, remote netip.AddrPort
	read, write   deadline
}

var _ net.Conn = (*conn)(nil)

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b, c.read)
	if err != nil && err != io.EOF {
		err = c.failed("read", err)
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b, c.write)
	if err != nil {
		err = c.failed("write", err)
	}
	return n, err
}

// Close ends both directions: the other side reads what was written and then EOF, and its writes fail.
func (c *conn) Close() error {
	c.in.stopReading()
	return c.out.finish()
}

// CloseWrite ends the outgoing direction only.
func (c *conn) CloseWrite() error { return c.out.finish() }

func (c *conn) abort(err error) {
	c.in.abort(err)
	c.out.abort(err)
}

func (c *conn) LocalAddr() net.Addr                { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(c.remote) }
func (c *conn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }
func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}

func (c *conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// flow is one direction of a stream.
type flow struct {
	net      *Network
	from, to netip.Addr

	mu       sync.Mutex
	chunks   []chunk
	size     int
	finished bool          // the writer has closed
	unread   bool          // the reader has closed
	err      error         // the stream broke
	changed  chan struct{} // closed and replaced at every change
}

type chunk struct {
	data []byte
	at   time.Time // when it arrives
}

func newFlow(n *Network, from, to netip.Addr) *flow {
	return &flow{net: n, from: from, to: to, changed: make(chan struct{})}
}

// poke wakes whoever waits on the flow.
func (f *flow) poke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pokeLocked()
}

func (f *flow) pokeLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// waitUp waits until both directions work and then for the time that a handshake takes.
func (f *flow) waitUp(ctx context.Context, back *flow, roundTrip time.Duration) error {
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		if f.net.reaches(f.from, f.to) && f.net.reaches(back.from, back.to) {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if roundTrip <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(roundTrip)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *flow) read(b []byte, d deadline) (int, error) {
	for {
		select {
		case <-d.passed():
			return 0, os.ErrDeadlineExceeded
		default:
		}
		// What to wait on is taken before the look at the network, so that a change after the look wakes us.
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		n, wait, err := f.tryRead(b, f.net.reaches(f.from, f.to))
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		var arrival <-chan time.Time
		var timer *time.Timer
		if wait > 0 {
			timer = time.NewTimer(wait)
			arrival = timer.C
		}
		select {
		case <-changed:
		case <-arrival:
		case <-d.passed():
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// tryRead copies what has arrived. If nothing has, it returns how long until the next chunk, or 0 if that is unknown.
func (f *flow) tryRead(b []byte, up bool) (n int, wait time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err != nil:
		return 0, 0, f.err
	case f.unread:
		return 0, 0, net.ErrClosed
	case !up:
		return 0, 0, nil
	case len(f.chunks) == 0 && f.finished:
		f.forget()
		return 0, 0, io.EOF
	case len(f.chunks) == 0:
		return 0, 0, nil
	}
	c := &f.chunks[0]
	if wait := time.Until(c.at); wait > 0 {
		return 0, wait, nil
	}
	n = copy(b, c.data)
	c.data = c.data[n:]
	f.size -= n
	if len(c.data) == 0 {
		f.chunks = f.chunks[1:]
	}
	f.pokeLocked()
	return n, 0, nil
}

func (f *flow) write(b []byte, d deadline) (int, error) {
	f.net.mu.Lock()
	latency := f.net.latency
	f.net.mu.Unlock()
	latency += f.net.resendDelay(firstData)
	written := 0
	for {
		select {
		case <-d.passed():
			return written, os.ErrDeadlineExceeded
		default:
		}
		f.mu.Lock()
		switch {
		case f.err != nil:
			defer f.mu.Unlock()
			return written, f.err
		case f.finished:
			f.mu.Unlock()
			return written, net.ErrClosed
		case f.unread:
			f.mu.Unlock()
			return written, syscall.EPIPE
		}
		if room := min(streamBuffer-f.size, len(b)-written); room > 0 {
			f.chunks = append(f.chunks, chunk{append([]byte(nil), b[written:written+room]...), time.Now().Add(latency)})
			f.size += room
			written += room
			f.pokeLocked()
		}
		changed := f.changed
		f.mu.Unlock()
		if written == len(b) {
			return written, nil
		}
		select {
		case <-changed:
		case <-d.passed():
		}
	}
}

// finish is the writer's close.
func (f *flow) finish() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.finished {
		f.finished = true
		f.pokeLocked()
	}
	return nil
}

// stopReading is the reader's close.
func (f *flow) stopReading() {
	f.mu.Lock()
	f.unread = true
	f.chunks, f.size = nil, 0
	f.pokeLocked()
	f.mu.Unlock()
	f.forget()
}

func (f *flow) abort(err error) {
	f.mu.Lock()
	if f.err == nil {
		f.err = err
	}
	f.chunks, f.size = nil, 0
	f.pokeLocked()
	f.mu.Unlock()
	f.forget()
}

// forget takes the flow off the network's list; nothing that happens to the network matters to it any more.
func (f *flow) forget() {
	f.net.mu.Lock()
	delete(f.net.flows, f)
	f.net.mu.Unlock()
}
