package chaos

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"shoal/node/api"
)

// A request that was sent may have been carried out, also when net/http tried it a second time and could not connect.
func TestWhatWasSentMayHaveHappened(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		in := bufio.NewReader(conn)
		_, _ = http.ReadRequest(in)
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")) // so that the connection is used again
		_, _ = http.ReadRequest(in)
		_ = ln.Close() // the agent dies with the second request in its hands
		_ = conn.Close()
	}()
	l := &load{begun: time.Now()}
	c := api.DialUnix(socket)
	defer c.Close()
	target := func() *api.Client { return c }
	ctx, cancel := context.WithCancel(t.Context())
	first := operation{in: input{kind: opRead}}
	l.do(ctx, target, "j", &first)
	cancel() // one try
	second := operation{in: input{kind: opScale, replicas: 1}}
	l.do(ctx, target, "j", &second)
	if !first.out.known || second.out.known || second.out.unsent || !second.maybe {
		t.Errorf("%+v, then %+v", first, second)
	}
	third := operation{in: input{kind: opScale, replicas: 1}}
	l.do(ctx, target, "j", &third)
	if !third.out.unsent || third.maybe {
		t.Errorf("nobody listened: %+v", third)
	}
}
