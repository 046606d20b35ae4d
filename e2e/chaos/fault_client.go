package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"shoal/e2e/machines"
)

// clientFaults come between the clients and the agents.
var clientFaults = []Fault{
	{Name: "lost-replies", Weight: 3, Play: lostReplies},
}

// lostReplies lets requests reach an agent, and drops what it answers: whether they happened is unknown to who asked.
func lostReplies(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span := w.Hold(r, time.Second, 15*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	s, err := swallow(m)
	if err != nil {
		return nil, err
	}
	w.Moved(m)
	return &Broken{
		What: "what " + m.Name + " answers is lost", For: span, On: []*machines.Machine{m},
		Acted: func() error {
			if s.lost.Load() == 0 {
				return errors.New("nobody was answered")
			}
			return nil
		},
		End: func(context.Context) error { return s.end() },
	}, nil
}

// swallower stands in for an agent's socket.
type swallower struct {
	path string
	l    net.Listener
	wg   sync.WaitGroup
	lost atomic.Int64 // bytes of answers
	mu   sync.Mutex
	open []net.Conn
}

func swallow(m *machines.Machine) (*swallower, error) {
	s := &swallower{path: m.Socket()}
	if err := os.Rename(s.path, s.path+".real"); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return nil, errors.Join(err, os.Rename(s.path+".real", s.path))
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	s.l = l
	s.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.carry(client) })
		}
	})
	return s, nil
}

func (s *swallower) carry(client net.Conn) {
	defer client.Close()
	agent, err := net.Dial("unix", s.path+".real")
	if err != nil {
		return
	}
	defer agent.Close()
	s.mu.Lock()
	s.open = append(s.open, client, agent)
	s.mu.Unlock()
	s.wg.Go(func() {
		n, _ := io.Copy(io.Discard, agent) // until either end is gone
		s.lost.Add(n)
	})
	_, _ = io.Copy(agent, countless{client, s}) // likewise
}

// countless notes that a request passed, before its answer is counted.
type countless struct {
	net.Conn
	s *swallower
}

func (c countless) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.s.lost.Add(1)
	}
	return n, err
}

func (s *swallower) end() error {
	err := errors.Join(s.l.Close(), os.Rename(s.path+".real", s.path))
	s.mu.Lock()
	for _, c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	if err != nil {
		return fmt.Errorf("give the socket back: %w", err)
	}
	return nil
}
