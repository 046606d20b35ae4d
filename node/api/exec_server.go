package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"shoal/consensus/job"
)

const (
	// execStartTime is how long a client may take to say what to run.
	execStartTime = 10 * time.Second
	// execLinger is how long the server goes on reading after the exit frame: closing a connection with unread input
	// resets it, and the frame may get lost. Clients close as soon as they have read it.
	execLinger = 3 * time.Second
)

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != execProtocol {
		writeError(w, job.Errorf(job.Invalid, "exec: the connection must ask for an upgrade to %s", execProtocol))
		return
	}
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
	session, pump, err := readStart(buf.Reader, out)
	if err != nil {
		_ = out.writeJSON(frameExit, execExit{Code: -1, Error: toWire(err)}) // the client is gone if this fails
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		pump() // ends when the client is gone
		cancel()
	}()
	code, err := s.backend.Exec(ctx, r.PathValue("task"), session)
	if stdin, ok := session.Stdin.(io.Closer); ok {
		_ = stdin.Close()
	}
	exit := execExit{Code: code}
	if err != nil {
		exit.Error = toWire(err)
	}
	if out.writeJSON(frameExit, exit) == nil {
		select {
		case <-pumped:
		case <-time.After(execLinger):
		}
	}
	_ = conn.Close()
	<-pumped
}

// readStart reads the first frame and gives the session and the loop that feeds it with the client's later frames.
func readStart(in *bufio.Reader, out *frameWriter) (*ExecSession, func(), error) {
	kind, payload, err := readFrame(in)
	if err != nil {
		return nil, nil, job.Errorf(job.Invalid, "exec stream: no request came: %w", err)
	}
	if kind != frameStart {
		return nil, nil, job.Errorf(job.Invalid, "exec stream: it begins with a frame of kind %q", kind)
	}
	s := &ExecSession{Stdout: streamWriter{out, frameStdout}, Stderr: streamWriter{out, frameStderr}}
	if err := json.Unmarshal(payload, &s.ExecRequest); err != nil {
		return nil, nil, job.Errorf(job.Invalid, "exec stream: its first frame is not a request: %w", err)
	}
	if len(s.Args) == 0 {
		return nil, nil, job.Errorf(job.Invalid, "exec: no command given")
	}
	resize := make(chan Size, 1)
	s.Resize = resize
	if s.Size != nil {
		resize <- *s.Size
	}
	var stdin *stdinBuffer
	if s.ExecRequest.Stdin {
		stdin = newStdinBuffer(func(n int) { _ = out.write(frameCredit, creditFrame(n)) }) // a client that is gone ends the pump
		s.Stdin = stdin
	}
	return s, func() { pumpClient(in, stdin, resize) }, nil
}

// pumpClient passes on what the client says until it is gone or breaks the rules. It never waits for the process.
func pumpClient(in io.Reader, stdin *stdinBuffer, resize chan Size) {
	defer close(resize)
	if stdin != nil {
		defer stdin.finish(io.ErrUnexpectedEOF)
	}
	for {
		kind, payload, err := readFrame(in)
		if err != nil {
			return
		}
		switch kind {
		case frameStdin:
			if stdin != nil && stdin.add(payload) != nil {
				return
			}
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
