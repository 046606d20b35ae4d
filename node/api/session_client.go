package api

import (
	"encoding/json"
	"errors"
	"io"
	"net"

	"shoal/consensus/job"
)

// ClientExec is the client's end of an exec.
type ClientExec struct {
	ExecRequest
	ClientStreams
}

// ClientStreams are the client's end of any session. Stdin nil sends none; Stdout and Stderr nil discard.
type ClientStreams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
	Detach         <-chan struct{} // once closed the client leaves with ErrDetached; nil: never
	Note           func(Note)      // nil: not told
}

// ErrDetached is how a session ends that the client left on purpose.
var ErrDetached = errors.New("detached")

// runClient speaks the client's side on an upgraded connection until the exit frame.
func (e *ClientStreams) runClient(conn net.Conn, in io.Reader, request any) (int, error) {
	out := &frameWriter{w: conn}
	if err := out.writeJSON(frameStart, request); err != nil {
		return -1, err
	}
	leave, stdinErr := newAllowance(), make(chan error, 1)
	defer leave.end()
	if e.Stdin != nil {
		// It ends with the command, or once Stdin gives something after that: a read from a terminal cannot be called off.
		go func() {
			_, err := io.Copy(paced{out, leave}, e.Stdin)
			switch {
			case err == nil:
				_ = out.write(frameEOF, nil) // the connection's end is seen by who reads it
			case !errors.Is(err, errExecOver): // a half of the input must not pass for the whole
				stdinErr <- err
				_ = conn.Close()
			}
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
	left := make(chan struct{})
	if e.Detach != nil {
		go func() {
			select {
			case <-e.Detach:
				close(left)
				_ = out.write(frameDetach, nil) // if it does not come through, the connection's end says less
				_ = conn.Close()
			case <-finished:
			}
		}()
	}
	code, err := e.readOutput(in, leave)
	select {
	case <-left:
		return -1, ErrDetached
	default:
	}
	select {
	case cause := <-stdinErr:
		if err != nil {
			err = job.Errorf(job.KindOf(err), "%w (%w)", err, cause)
		}
	default:
	}
	return code, err
}

func (e *ClientStreams) readOutput(in io.Reader, leave *allowance) (int, error) {
	for {
		kind, payload, err := readFrame(in)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return -1, job.Errorf(job.Unavailable, "the connection to the task's node broke: %w", err)
		}
		switch kind {
		case frameStdout:
			if err := put(e.Stdout, payload); err != nil {
				return -1, err
			}
		case frameStderr:
			if err := put(e.Stderr, payload); err != nil {
				return -1, err
			}
		case frameNote:
			var n Note
			if json.Unmarshal(payload, &n) == nil && e.Note != nil {
				e.Note(n)
			}
		case frameCredit:
			leave.grant(payload)
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

// put writes for a person: what cannot be written (a closed pipe) ends the session.
func put(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(p); err != nil {
		return job.Errorf(job.Internal, "pass the output on: %w", err)
	}
	return nil
}
