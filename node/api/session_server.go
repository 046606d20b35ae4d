package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"shoal/consensus/job"
)

const (
	// maxSessions bounds the sessions that one node serves or passes on to its own containers at a time.
	maxSessions = 1024
	// execStartTime is how long a client may take to say what to run.
	execStartTime = 10 * time.Second
	// execLinger is how long the server goes on reading after the exit frame: closing a connection with unread input
	// resets it, and the frame may get lost. Clients close as soon as they have read it.
	execLinger = 3 * time.Second
)

// opening is the first word of a session: whether there will be stdin, the terminal's size if there is one, and what is
// wrong with it.
type opening interface {
	opens() (stdin bool, size *Size, err error)
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	var req ExecRequest
	s.session(w, r, &req, func(ctx context.Context, st *Streams) (int, error) {
		return s.backend.Exec(ctx, r.PathValue("task"), &ExecSession{req, *st})
	})
}

// session upgrades the connection, reads the client's first word into req, and serves it until run is done.
func (s *Server) session(w http.ResponseWriter, r *http.Request, req opening, run func(context.Context, *Streams) (int, error)) {
	if r.Header.Get("Upgrade") != execProtocol {
		writeError(w, job.Errorf(job.Invalid, "exec: the connection must ask for an upgrade to %s", execProtocol))
		return
	}
	over := sync.OnceFunc(func() { s.sessions.Add(-1) })
	if s.sessions.Add(1) > maxSessions {
		over()
		writeError(w, job.Errorf(job.Unavailable, "this node serves %d sessions (exec, attach, port-forward, cp), which is all it takes; try again later", maxSessions))
		return
	}
	defer over()
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		writeError(w, job.Errorf(job.Invalid, "exec: it takes HTTP/1.1: %w", err))
		return
	}
	ctx, cancel := context.WithCancel(r.Context()) // ends with the server; the client's end is noticed by reading
	defer cancel()
	// Whoever writes to a client that is gone, or reads from it, is let go.
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(closed); _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close()
		} else {
			<-closed
		}
	}()
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", execProtocol); err != nil {
		return
	}
	out := &frameWriter{w: conn}
	_ = conn.SetReadDeadline(time.Now().Add(execStartTime)) // fails with the connection, and so does reading
	// Not through net/http's reader, at whose end the request's context ends: work may outlive its client.
	begun, _ := buf.Reader.Peek(buf.Reader.Buffered()) // never more than there is
	st, pump, err := readStart(bufio.NewReader(io.MultiReader(bytes.NewReader(begun), conn)), out, req)
	if err != nil {
		_ = out.writeJSON(frameExit, execExit{Code: -1, Error: toWire(err)}) // the client is gone if this fails
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	var released, left atomic.Bool
	st.Free = func() bool { return released.Load() || left.Load() }
	st.Release = func() {
		if !released.Swap(true) {
			over()
			_ = out.writeJSON(frameExit, execExit{})
		}
	}
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		if left.Store(pump()); left.Load() { // it ends when the client is gone
			over()
		} else if !released.Load() {
			cancel()
		}
		_ = conn.Close()
	}()
	code, err := run(ctx, st)
	if stdin, ok := st.Stdin.(io.Closer); ok {
		_ = stdin.Close()
	}
	exit := execExit{Code: code}
	if err != nil {
		exit.Error = toWire(err)
	}
	if released.Load() || out.writeJSON(frameExit, exit) == nil {
		select {
		case <-pumped:
		case <-time.After(execLinger):
		}
	}
	_ = conn.Close()
	<-pumped
}

// readStart reads the first frame into req, and gives the session's streams and the loop that feeds them with the client's
// later frames.
func readStart(in *bufio.Reader, out *frameWriter, req opening) (*Streams, func() bool, error) {
	kind, payload, err := readFrame(in)
	if err != nil {
		return nil, nil, job.Errorf(job.Invalid, "exec stream: no request came: %w", err)
	}
	if kind != frameStart {
		return nil, nil, job.Errorf(job.Invalid, "exec stream: it begins with a frame of kind %q", kind)
	}
	if err := json.Unmarshal(payload, req); err != nil {
		return nil, nil, job.Errorf(job.Invalid, "exec stream: its first frame is not a request: %w", err)
	}
	withStdin, size, err := req.opens()
	if err != nil {
		return nil, nil, err
	}
	st := &Streams{
		Stdout: streamWriter{out, frameStdout}, Stderr: streamWriter{out, frameStderr},
		Note: func(n Note) { _ = out.writeJSON(frameNote, n) }, // a client that is gone ends the pump
	}
	resize := make(chan Size, 1)
	st.Resize = resize
	if size != nil {
		resize <- *size
	}
	var stdin *stdinBuffer
	if withStdin {
		stdin = newStdinBuffer(func(n int) { _ = out.write(frameCredit, creditFrame(n)) }) // the same
		st.Stdin = stdin
	}
	return st, func() bool { return pumpClient(in, stdin, resize) }, nil
}

// pumpClient passes on what the client says until it is gone, breaks the rules or, as it tells, leaves on purpose. It never
// waits for the process.
func pumpClient(in io.Reader, stdin *stdinBuffer, resize chan Size) (left bool) {
	defer close(resize)
	if stdin != nil {
		defer stdin.finish(io.ErrUnexpectedEOF)
	}
	for {
		kind, payload, err := readFrame(in)
		if err != nil {
			return false
		}
		switch kind {
		case frameStdin:
			if stdin != nil && stdin.add(payload) != nil {
				return false
			}
		case frameDetach:
			return true
		case frameEOF:
			if stdin != nil {
				stdin.finish(io.EOF)
			}
		case frameResize:
			var size Size
			if json.Unmarshal(payload, &size) != nil {
				continue
			}
			select { // only the latest size counts
			case <-resize:
			default:
			}
			resize <- size
		}
	}
}
