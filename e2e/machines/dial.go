package machines

import (
	"context"
	"fmt"
	"net"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// DialContext connects to an address as a program on the machine would; it fits http.Transport. Addresses are numeric.
func (m *Machine) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return m.net.driver.dial(ctx, m, network, addr)
}

// dialFrom connects as a program in a network namespace would.
func dialFrom(ctx context.Context, namespace, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := dialIn(ctx, namespace, network, addr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dialIn changes its thread's network namespace; the socket stays in the one in which it was made.
func dialIn(ctx context.Context, namespace, network, addr string) (net.Conn, error) {
	goruntime.LockOSThread()
	ours, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		goruntime.UnlockOSThread()
		return nil, err
	}
	defer unix.Close(ours)
	theirs, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		goruntime.UnlockOSThread()
		return nil, err
	}
	defer unix.Close(theirs)
	if err := unix.Setns(theirs, unix.CLONE_NEWNET); err != nil {
		goruntime.UnlockOSThread()
		return nil, err
	}
	// FallbackDelay < 0: no second goroutine, which would be on another thread.
	conn, err := (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
	if back := unix.Setns(ours, unix.CLONE_NEWNET); back != nil {
		panic(fmt.Sprintf("cannot leave the network namespace %s: %v", namespace, back))
	}
	goruntime.UnlockOSThread()
	return conn, err
}
