package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal/node/api"
	"shoal/node/pki"
)

func TestCertificatesDecideWhatMayBeCalled(t *testing.T) {
	a := newAuthority(t)
	p := openPort(t, a, nil)
	for _, c := range []struct {
		name string
		conf *tls.Config
		want api.Caller
	}{
		{"guest", guest(), api.Caller{Access: api.Anyone}},
		{"reader", a.person(pki.Reader), api.Caller{Access: api.Reader, Name: "ada"}},
		{"operator", a.person(pki.Operator), api.Caller{Access: api.Operator, Name: "ada"}},
		{"admin", a.person(pki.Admin), api.Caller{Access: api.Admin, Name: "ada"}},
		{"node", a.node("n7").ClientTLS(alpnAPI, ""), api.Caller{Access: api.NodeOnly, Node: "n7", Name: "n7"}},
	} {
		if _, err := p.dial(c.conf); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := callerOfTLS(context.Background(), accepted(t, p.api)); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestRequestsEndWithTheServerAndAreWaitedFor(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	l, err := listenSocket(sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	entered, ended := make(chan struct{}), make(chan struct{})
	h := &waited{idle: make(chan struct{}), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack() // as exec does
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		close(entered)
		<-r.Context().Done()
		time.Sleep(50 * time.Millisecond)
		close(ended)
	})}
	n := &Node{log: slog.New(slog.DiscardHandler)}
	s := n.newHTTPServer(ctx, h, func(context.Context, net.Conn) api.Caller { return api.Caller{} })
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	conn, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	cancel()
	_ = s.Close()
	h.wait()
	select {
	case <-ended:
	default:
		t.Error("the server went before its request did")
	}
	<-served
}

func TestSlowHeadersAreNotWaitedForForever(t *testing.T) {
	n := &Node{log: slog.New(slog.DiscardHandler)}
	s := n.newHTTPServer(context.Background(), http.NotFoundHandler(), func(context.Context, net.Conn) api.Caller { return api.Caller{} })
	if s.ReadHeaderTimeout == 0 || s.ReadHeaderTimeout > time.Minute || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
		t.Errorf("a server without limits: %+v", s)
	}
	s.ReadHeaderTimeout = 50 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil && os.IsTimeout(err) {
		t.Errorf("the server still waits: %q, %v", line, err)
	}
}

func TestSocketIsForItsOwnerAndOnlySocketsAreReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "shoal.sock")
	l, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v, %v; want 0600", fi.Mode(), err)
	}
	if _, err := listenSocket(path); err == nil || !strings.Contains(err.Error(), "another agent answers") {
		t.Errorf("a second agent on one socket: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a crash leaves it
	_ = l.Close()
	if l, err = listenSocket(path); err != nil {
		t.Fatalf("a socket that a crash left behind: %v", err)
	}
	_ = l.Close()
	file := filepath.Join(dir, "precious")
	if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(file); err == nil {
		t.Error("a file was replaced by a socket")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "data" {
		t.Errorf("the file is gone: %q, %v", b, err)
	}
	if l, err := listenSocket(""); l != nil || err != nil {
		t.Errorf("no socket wanted: %v, %v", l, err)
	}
}
