package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"shoal/consensus/job"
)

// After the upgrade to execProtocol both ends speak frames: one byte of kind, four of length (big endian), the payload.
const (
	execProtocol  = "shoal-exec/1"
	maxFrameBytes = 64 << 10
)

const (
	frameStart  = 's' // client, first: ExecRequest
	frameStdin  = 'i' // client
	frameEOF    = 'e' // client: stdin is at its end
	frameResize = 'r' // client: Size
	frameStdout = 'o' // server
	frameStderr = 'E' // server
	frameExit   = 'x' // server, last: execExit
)

// ExecRequest is what to run in a task's container.
type ExecRequest struct {
	Args       []string `json:"args"`
	Env        []string `json:"env,omitempty"`
	WorkingDir string   `json:"workingDir,omitempty"`
	User       string   `json:"user,omitempty"`
	TTY        bool     `json:"tty,omitempty"`
	Stdin      bool     `json:"stdin,omitempty"`
	Size       *Size    `json:"size,omitempty"`
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

// ExecSession is the server's end. Stdin is nil when the client sends none; Resize is closed when the client is gone.
type ExecSession struct {
	ExecRequest
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
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

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != execProtocol {
		writeError(w, job.Errorf(job.Invalid, "exec: the connection must ask for an upgrade to %s", execProtocol))
		return
	}
	ctx := r.Context()
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		writeError(w, job.Errorf(job.Invalid, "exec: it takes HTTP/1.1: %w", err))
		return
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", execProtocol); err != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a hijacked request has no end of its own
	defer cancel()
	out := &frameWriter{w: conn}
	session, pump, err := readStart(buf.Reader, out)
	if err != nil {
		_ = out.writeJSON(frameExit, execExit{Code: -1, Error: toWire(err)})
		return
	}
	go func() {
		pump() // ends when the client is gone
		cancel()
	}()
	code, err := s.backend.Exec(ctx, r.PathValue("task"), session)
	if stdin, ok := session.Stdin.(io.Closer); ok {
		_ = stdin.Close() // frees a pump that waits for a process that is gone
	}
	exit := execExit{Code: code}
	if err != nil {
		exit.Error = toWire(err)
	}
	_ = out.writeJSON(frameExit, exit) // the client is gone if this fails
}

// readStart reads the first frame and gives the session and the loop that feeds it with the client's later frames.
func readStart(in *bufio.Reader, out *frameWriter) (*ExecSession, func(), error) {
	kind, payload, err := readFrame(in)
	if err != nil {
		return nil, nil, err
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
	var stdin *io.PipeWriter
	if s.ExecRequest.Stdin {
		pr, pw := io.Pipe()
		s.Stdin, stdin = pr, pw
	}
	return s, func() { pumpClient(in, stdin, resize) }, nil
}

func pumpClient(in io.Reader, stdin *io.PipeWriter, resize chan Size) {
	defer close(resize)
	defer func() {
		if stdin != nil {
			_ = stdin.CloseWithError(io.ErrUnexpectedEOF)
		}
	}()
	for {
		kind, payload, err := readFrame(in)
		if err != nil {
			return
		}
		switch kind {
		case frameStdin:
			if stdin != nil {
				_, _ = stdin.Write(payload) // an exec that no longer reads
			}
		case frameEOF:
			if stdin != nil {
				_ = stdin.Close()
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

// ClientExec is the client's end. Stdin nil sends none; Resize may be nil.
type ClientExec struct {
	ExecRequest
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// runClient speaks the client's side on an upgraded connection until the exit frame.
func (e *ClientExec) runClient(conn net.Conn, in io.Reader) (int, error) {
	e.ExecRequest.Stdin = e.Stdin != nil
	out := &frameWriter{w: conn}
	if err := out.writeJSON(frameStart, e.ExecRequest); err != nil {
		return -1, err
	}
	if e.Stdin != nil {
		go func() {
			_, _ = io.Copy(streamWriter{out, frameStdin}, e.Stdin) // ends with the connection
			_ = out.write(frameEOF, nil)
		}()
	}
	finished := make(chan struct{})
	defer close(finished)
	if e.Resize != nil {
		go func() {
			for {
				select {
				case size, ok := <-e.Resize:
					if !ok {
						return
					}
					_ = out.writeJSON(frameResize, size)
				case <-finished:
					return
				}
			}
		}()
	}
	return e.readOutput(in)
}

func (e *ClientExec) readOutput(in io.Reader) (int, error) {
	for {
		kind, payload, err := readFrame(in)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return -1, job.Errorf(job.Unavailable, "exec: the connection to the task's node broke: %w", err)
		}
		switch kind {
		case frameStdout:
			_, _ = e.Stdout.Write(payload)
		case frameStderr:
			_, _ = e.Stderr.Write(payload)
		case frameExit:
			var exit execExit
			if err := json.Unmarshal(payload, &exit); err != nil {
				return -1, err
			}
			if exit.Error != nil {
				return exit.Code, exit.Error.err()
			}
			return exit.Code, nil
		}
	}
}
