package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// An agent whose disk fails says so. Leading ends without a word when the log closes, then the port is closed, and only then
// says the log which write failed: the API, that lost its port meanwhile, must not speak before it.
func TestThePartThatFailedIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{log: slog.New(slog.DiscardHandler), machine: &Machine{Images: unserved{}}}
		port := newConnQueue(&net.TCPAddr{})
		err := n.runParts(t.Context(), []part{
			{"leading", func(context.Context) error { _ = port.Close(); time.Sleep(time.Second); return nil }},
			{"api", func(ctx context.Context) error { return n.serveAPI(ctx, port, nil) }},
			{"log", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Second); return syscall.EIO }},
		})
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("it ended with %q, not with what failed", err)
		}
	})
}

// unserved are images that nobody asks for.
type unserved struct{ Images }

func (unserved) Handler() http.Handler { return nil }
