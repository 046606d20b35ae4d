package container

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// dialTimeout bounds a connection into a container.
const dialTimeout = 10 * time.Second

// Dial connects to an address as the container sees it, from inside its network namespace.
func (r *Runtime) Dial(ctx context.Context, id runtime.ID, proto, address string) (net.Conn, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, err
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil || proto != "tcp" && proto != "udp" {
		return nil, stage.Invalidf("connect to %s %q in container %s: it takes tcp or udp, and an address with a port", proto, address, id)
	}
	r.refresh(c)
	in := c.info()
	if in.State != runtime.Running {
		return nil, conflictf("connect to %s in container %s: it is not running", address, id)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", in.PID))
	if err != nil {
		return nil, conflictf("connect to %s in container %s: it has ended", address, id)
	}
	defer ns.Close()
	if r.refresh(c); c.info().PID != in.PID { // the number may be another's by now
		return nil, conflictf("connect to %s in container %s: it has ended", address, id)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dialIn(ctx, ns, proto, to)
	if err != nil {
		return nil, stage.WithKind(runtime.ErrBusy, fmt.Errorf("connect to %s in container %s: %w", address, id, err))
	}
	return conn, nil
}

// dialIn makes the socket on a thread that has entered the namespace and ends afterwards; the socket stays in it. A number
// for an address keeps the dialer on that thread.
func dialIn(ctx context.Context, ns *os.File, proto string, to netip.AddrPort) (conn net.Conn, err error) {
	onLastThread(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			err = os.NewSyscallError("setns", err)
			return
		}
		var d net.Dialer
		conn, err = d.DialContext(ctx, proto, to.String())
	})
	return conn, err
}
