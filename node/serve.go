package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/pki"
)

// serveAPI answers people on the unix socket and everybody on the shared port until ctx ends.
func (n *Node) serveAPI(ctx context.Context, tlsConns net.Listener, socket net.Listener) error {
	handler := api.NewServer(n, n.machine.Images.Handler(), n.log)
	remote := newHTTPServer(handler, callerOfTLS)
	local := newHTTPServer(handler, func(context.Context, net.Conn) api.Caller {
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
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return err
}

func newHTTPServer(h http.Handler, caller func(context.Context, net.Conn) api.Caller) *http.Server {
	return &http.Server{
		Handler:           h,
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
	conn, ok := c.(*tls.Conn)
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
