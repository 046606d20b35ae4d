package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/pki"
)

// serveAPI answers people on the unix socket and everybody on the shared port until ctx ends.
func (n *Node) serveAPI(ctx context.Context, tlsConns net.Listener, socket net.Listener) error {
	handler := &waited{Handler: api.NewServer(n, n.machine.Images.Handler(), n.log), idle: make(chan struct{})}
	defer handler.wait()
	ctx, cancel := context.WithCancel(ctx) // also when a server fails
	defer cancel()
	remote := n.newHTTPServer(ctx, handler, callerOfTLS)
	local := n.newHTTPServer(ctx, handler, func(context.Context, net.Conn) api.Caller {
		return api.Caller{Access: api.Admin, Name: "root"} // who can open the socket is root
	})
	errs := make(chan error, 2)
	go func() { errs <- remote.Serve(tlsConns) }()
	servers := []*http.Server{remote}
	if socket != nil {
		servers = append(servers, local)
		go func() { errs <- local.Serve(socket) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
	}
	for _, s := range servers {
		_ = s.Close() // streams have no natural end, so there is nothing to wait for
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
		return nil // whoever closed the port tells why; a context's end can come here after it
	}
	return err
}

// waited lets the API's end wait for requests that are still at work: http.Server.Close does not.
type waited struct {
	http.Handler

	mu   sync.Mutex
	work int  // requests under way
	over bool // no more are taken
	idle chan struct{}
}

func (h *waited) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	if h.over {
		h.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	h.work++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.work--; h.over && h.work == 0 {
			close(h.idle)
		}
	}()
	h.Handler.ServeHTTP(w, r)
}

// wait takes no more requests and returns when the last has ended.
func (h *waited) wait() {
	h.mu.Lock()
	h.over = true
	busy := h.work > 0
	h.mu.Unlock()
	if busy {
		<-h.idle
	}
}

// newHTTPServer makes a server whose requests end with ctx, also those that took their connection over.
func (n *Node) newHTTPServer(ctx context.Context, h http.Handler, caller func(context.Context, net.Conn) api.Caller) *http.Server {
	return &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return api.WithCaller(ctx, caller(ctx, c))
		},
	}
}

// callerOfTLS reads who is at the other end out of the verified certificate.
func callerOfTLS(_ context.Context, c net.Conn) api.Caller {
	conn, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return api.Caller{}
	}
	peer, ok := pki.PeerOf(conn.ConnectionState())
	if !ok {
		return api.Caller{Access: api.Anyone}
	}
	if peer.Kind == pki.Node {
		return api.Caller{Access: api.NodeOnly, Node: job.NodeID(peer.ID), Name: peer.Name}
	}
	access := map[pki.Role]api.Access{pki.Reader: api.Reader, pki.Operator: api.Operator, pki.Admin: api.Admin}
	return api.Caller{Access: access[peer.Role], Name: peer.Name}
}

// listenSocket makes the unix socket for people on this machine. A socket that nobody answers was left by a crash.
func listenSocket(path string) (net.Listener, error) {
	if path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, job.Errorf(job.Conflict, "another agent answers on %s: stop it, or give this one another --socket and --data-dir", path)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != os.ModeSocket {
		return nil, job.Errorf(job.Invalid, "--socket %s: there is something else than a socket; name another path", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}
