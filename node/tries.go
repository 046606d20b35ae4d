package node

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// dialAgain is the pause before another connection is tried beside the ones under way. A lost SYN is sent again by the
// kernel only after a second, which is longer than a probe may take.
const dialAgain = 100 * time.Millisecond

// dialTries dials until one try has an answer or ctx ends: a single lost packet must not make a machine look dead. At
// 10 % loss one try in five has no answer within probeTimeout; of these tries together it is one in a few thousand.
func dialTries(ctx context.Context, u Underlay, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	type answer struct {
		conn net.Conn
		err  error
	}
	answers := make(chan answer)
	dial := func() {
		conn, err := u.Dial(ctx, addr)
		select {
		case answers <- answer{conn, err}:
		case <-ctx.Done():
			if conn != nil {
				_ = conn.Close()
			}
		}
	}
	defer cancel()
	again := time.NewTicker(dialAgain)
	defer again.Stop()
	go dial()
	var last error
	for {
		select {
		case a := <-answers:
			if a.err == nil || errors.Is(a.err, syscall.ECONNREFUSED) {
				return a.conn, a.err
			}
			last = a.err // such as no route: it may have one in a moment
		case <-again.C:
			go dial()
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), last)
		}
	}
}
