package api

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"shoal/consensus/job"
)

// A session (exec, attach, forward, copy) is a connection upgraded to execProtocol. After that both ends speak frames: one
// byte of kind, four of length (big endian), the payload.
//
// The server always reads on, whatever the process does, because only so does it notice that the client is gone. What
// the process has not read yet is held for it, so a client may have no more than stdinWindow bytes of stdin under way: it
// starts with that much credit, and gets more by frameCredit as the process reads.
const (
	execProtocol  = "shoal-exec/1"
	maxFrameBytes = 64 << 10
	stdinWindow   = 1 << 20
)

const (
	frameStart  = 's' // client, first: the route's request
	frameStdin  = 'i' // client
	frameEOF    = 'e' // client: stdin is at its end
	frameResize = 'r' // client: Size
	frameDetach = 'd' // client, last: it leaves, and what runs goes on
	frameStdout = 'o' // server
	frameStderr = 'E' // server
	frameCredit = 'c' // server: so many more bytes of stdin may be sent, four bytes, big endian
	frameNote   = 'n' // server: Note
	frameExit   = 'x' // server, last: execExit
)

// ExecRequest is what to run in a task's container.
type ExecRequest struct {
	Args       []string `json:"args"`
	Env        []string `json:"env,omitempty"`
	WorkingDir string   `json:"workingDir,omitempty"`
	User       string   `json:"user,omitempty"`
	TTY        bool     `json:"tty,omitempty"`
	Input      bool     `json:"stdin,omitempty"` // there will be stdin
	Privileged bool     `json:"privileged,omitempty"`
	// Detach ends the session as soon as the command runs; it then has no input, and its output goes nowhere.
	Detach bool  `json:"detach,omitempty"`
	Size   *Size `json:"size,omitempty"`
}

func (r *ExecRequest) opens() (stdin bool, size *Size, err error) {
	if len(r.Args) == 0 {
		return false, nil, job.Errorf(job.Invalid, "exec: no command given")
	}
	return r.Input && !r.Detach, r.Size, nil
}

// Size of a terminal in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

type execExit struct {
	Code  int    `json:"code"`
	Error *Error `json:"error,omitempty"`
}

// Note tells a client of a session what it waits for.
type Note struct {
	State string `json:"state"` // of the task: placed, pulling, created
	Done  int64  `json:"done,omitempty"`
	Total int64  `json:"total,omitempty"` // bytes of a pull; 0: not known
}

// Streams are the server's end of a session. Stdin is nil when the client sends none; Resize is closed when the client is
// gone.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
	Note           func(Note) // nil only in tests
	// Release ends the session with the exit code 0 while the work goes on; only its first call counts.
	Release func()
	// Free tells whether the work is to go on without the client, and without the server: it was released, or the client
	// left it.
	Free func() bool
}

// ExecSession is the server's end of an exec.
type ExecSession struct {
	ExecRequest
	Streams
}

type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) write(kind byte, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var head [5]byte
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(p)))
	if _, err := f.w.Write(append(head[:], p...)); err != nil {
		return err
	}
	return nil
}

func (f *frameWriter) writeJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.write(kind, b)
}

func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrameBytes {
		return 0, nil, fmt.Errorf("exec stream: a frame of %d bytes, at most %d are allowed", n, maxFrameBytes)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}

// streamWriter cuts what it is given into frames of one kind.
type streamWriter struct {
	f    *frameWriter
	kind byte
}

func (s streamWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), maxFrameBytes)
		if err := s.f.write(s.kind, p[:n]); err != nil {
			return total - len(p), err
		}
		p = p[n:]
	}
	return total, nil
}
