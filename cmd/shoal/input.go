package main

import (
	"io"
	"sync"
)

// input is standard input on its way to sessions that follow each other. One goroutine reads it, because a read from a
// terminal cannot be called off: that of a session that is over would take what belongs to the next. Safe for concurrent use.
type input struct {
	from io.Reader
	once sync.Once // begins to read

	mu      sync.Mutex
	changed *sync.Cond
	piece   []byte // was read and is not written yet
	err     error  // that ended from; nil: it goes on
	sent    bool   // something was given to a session
	closed  bool
}

func newInput(from io.Reader) *input {
	in := &input{from: from}
	in.changed = sync.NewCond(&in.mu)
	return in
}

// read goes on until from ends or close, a piece at a time. It outlives both while nothing comes.
func (in *input) read() {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.from.Read(buf)
		in.mu.Lock()
		in.piece, in.err = buf[:n], err
		in.changed.Broadcast()
		for len(in.piece) > 0 && !in.closed {
			in.changed.Wait()
		}
		closed := in.closed
		in.mu.Unlock()
		if err != nil || closed {
			return
		}
	}
}

// began tells whether any of it was given to a session.
func (in *input) began() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.sent
}

// close says that no session will follow.
func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.changed.Broadcast()
}

// session gives the reader of one session, until end.
func (in *input) session() *sessionInput { return &sessionInput{in: in} }

// sessionInput is read by one goroutine, which reads again only when it has written what it got.
type sessionInput struct {
	in    *input
	given int  // bytes of in.piece that are being written
	over  bool // guarded by in.mu
}

func (s *sessionInput) Read(p []byte) (int, error) {
	in := s.in
	in.once.Do(func() { go in.read() })
	in.mu.Lock()
	defer in.mu.Unlock()
	if s.over { // what it was given may not have been written
		return 0, io.ErrClosedPipe
	}
	in.piece, s.given = in.piece[s.given:], 0
	in.changed.Broadcast()
	for len(in.piece) == 0 && in.err == nil && !s.over {
		in.changed.Wait()
	}
	switch {
	case s.over:
		return 0, io.ErrClosedPipe
	case len(in.piece) > 0:
		s.given = copy(p, in.piece)
		in.sent = true
		return s.given, nil
	}
	return 0, in.err
}

// end leaves what was not written to the next session.
func (s *sessionInput) end() {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.over = true
	s.in.changed.Broadcast()
}
