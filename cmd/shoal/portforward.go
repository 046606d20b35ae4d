package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

// maxForwarded bounds the connections that one port-forward carries at a time.
const maxForwarded = 256

func portForwardCommand() *cli.Command {
	return &cli.Command{
		Name: "port-forward", Category: categoryLook,
		Usage:     "make ports of a task reachable here, though they are not published",
		ArgsUsage: "TASK [LOCAL:]REMOTE...",
		Description: "REMOTE is a port of the task, or ADDRESS:PORT as the task sees it; LOCAL is a port here, 0 for any, and the same as REMOTE's if\n" +
			"left out. A port without an address is tried at the task's own address first, then at 127.0.0.1 in its network. It goes on\n" +
			"until Ctrl-C. Only TCP.\n\n" +
			"Examples:\n  shoal port-forward web/front.1 8080:80\n  shoal port-forward db 5432 9000:127.0.0.1:9000",
		Flags:  clientFlags(&cli.StringFlag{Name: "address", Value: "127.0.0.1", Usage: "`ADDRESS` here to listen on"}),
		Action: asking(portForward),
	}
}

// forwarding is one LOCAL:REMOTE.
type forwarding struct {
	local  string // port
	remote string // ":80" is at the task's own address, or else at its 127.0.0.1
}

func parseForwarding(word string) (forwarding, error) {
	bad := exitf(exitUsage, "%s: it takes [LOCAL:]REMOTE, such as 8080:80 or 8080:127.0.0.1:80", word)
	local, remote, both := strings.Cut(word, ":")
	if !both {
		remote = local
	}
	host, port := "", remote
	if i := strings.LastIndex(remote, ":"); i >= 0 {
		host, port = remote[:i], remote[i+1:]
	}
	if !both || local == "" {
		local = port
	}
	for _, p := range []string{local, port} {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || p == port && n == 0 {
			return forwarding{}, bad
		}
	}
	f := forwarding{local: local}
	switch host {
	case "":
		f.remote = ":" + port
	case "localhost":
		f.remote = "127.0.0.1:" + port
	default:
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil {
			return forwarding{}, bad
		}
		f.remote = remote
	}
	return f, nil
}

func portForward(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 2, -1); err != nil {
		return err
	}
	t, err := oneTask(c.Context, cl, c.Args().First())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	failed := make(chan error, c.NArg())
	open := make(chan struct{}, maxForwarded)
	for _, word := range c.Args().Tail() {
		f, err := parseForwarding(word)
		if err != nil {
			return err
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(c.String("address"), f.local))
		if err != nil {
			return fmt.Errorf("forward %s: %w", word, err)
		}
		context.AfterFunc(ctx, func() { _ = l.Close() }) // never called off: it is what ends Accept, also when a later word is bad
		s.printf("forwarding %s -> %s %s\n", l.Addr(), fullName(t), f.remote)
		wait.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				select {
				case open <- struct{}{}:
				default:
					s.note("a connection was refused: %d are open", maxForwarded)
					_ = conn.Close()
					continue
				}
				wait.Go(func() {
					defer func() { <-open }()
					carryOne(ctx, s, cl, string(t.ID), f, conn)
				})
			}
		})
	}
	select {
	case <-ctx.Done():
		return nil // Ctrl-C is how it ends
	case err := <-failed:
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
}

// carryOne carries one connection, over a session of its own.
func carryOne(ctx context.Context, s *screen, cl *api.Client, task string, f forwarding, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := cl.Forward(ctx, task, api.ForwardRequest{Network: "tcp", Address: f.remote}, conn, conn); err != nil && ctx.Err() == nil {
		s.note("%v", err)
	}
}
