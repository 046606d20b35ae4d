// Package vm is how the tests get into a virtual machine: a small server inside, and the requests to it. It knows
// programs, files, processes and connections; of shoal, and of how the machine was made, it knows nothing.
//
// The server's network is one of its own: its card is moved into a network namespace in which nothing else is, so that
// whatever is done to the machine's network leaves the way in open, and the machine shows no trace of it.
package vm

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
)

// Port is the TCP port of the server inside.
const Port = 7000

// Request is the first line of a connection, in JSON.
type Request struct {
	// Op is one of the operations below.
	Op string `json:"op"`
	// Args of run: program and arguments.
	Args []string `json:"args,omitempty"`
	// Network and Addr of dial.
	Network string `json:"network,omitempty"`
	Addr    string `json:"addr,omitempty"`
	// Path, Mode and Size of put; Path of get.
	Path string `json:"path,omitempty"`
	Mode uint32 `json:"mode,omitempty"`
	Size int64  `json:"size,omitempty"`
	// PID and Signal of kill.
	PID    int `json:"pid,omitempty"`
	Signal int `json:"signal,omitempty"`
}

const (
	opRun  = "run"  // a program, as frames both ways
	opDial = "dial" // an Answer, then the bytes of the connection
	opPut  = "put"  // Size bytes follow, then an Answer; what is there of that size already gets an Answer at once
	opKill = "kill" // an Answer
	opList = "list" // an Answer with Processes
	opPace = "pace" // an Answer with Took
)

// Answer is one line of JSON.
type Answer struct {
	Error     string    `json:"error,omitempty"`
	There     bool      `json:"there,omitempty"` // put: nothing to send
	Processes []Process `json:"processes,omitempty"`
	Took      int64     `json:"took,omitempty"` // nanoseconds of Work
}

// Process is one of a machine's.
type Process struct {
	PID     int      `json:"pid"`
	Parent  int      `json:"parent"`
	Command string   `json:"command"`
	Env     []string `json:"env,omitempty"` // only what begins with SHOAL_
	First   bool     `json:"first,omitempty"`
}

// Frames of run: a kind, four bytes of length, the bytes.
const (
	frameIn     = 0 // to the program; of length 0: the end of its input
	frameOut    = 1
	frameErr    = 2
	frameExit   = 3 // the exit code in decimal
	frameFailed = 4 // why it did not start
	framePID    = 5 // in decimal, first of all
)

const frameLimit = 32 << 10 // bytes of one frame

type frames struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frames) write(kind byte, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(p)))
	_, err := f.w.Write(append(head, p...))
	return err
}

// sender writes all it gets as frames of one kind.
type sender struct {
	f    *frames
	kind byte
}

func (s sender) Write(p []byte) (int, error) {
	sent := 0
	for len(p) > 0 {
		part := p[:min(len(p), frameLimit)]
		if err := s.f.write(s.kind, part); err != nil {
			return sent, err
		}
		sent, p = sent+len(part), p[len(part):]
	}
	return sent, nil
}

func readFrame(r io.Reader) (kind byte, p []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > frameLimit {
		return 0, nil, fmt.Errorf("a frame of %d bytes", size)
	}
	p = make([]byte, size)
	_, err = io.ReadFull(r, p)
	return head[0], p, err
}

func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

func readLine(r *bufio.Reader, v any) error {
	b, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// Join copies both ways between two connections, with half-closes, until both ways have ended.
func Join(a, b net.Conn, fromB io.Reader) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(a, fromB); endWriting(a) })
	wg.Go(func() { _, _ = io.Copy(b, a); endWriting(b) })
	wg.Wait()
	_ = a.Close()
	_ = b.Close()
}

func endWriting(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
		return
	}
	_ = c.Close()
}
