package api

import (
	"encoding/json"
	"errors"
	"io"
	"net"

	"shoal/consensus/job"
)

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
	code, err := e.readOutput(in, leave)
	select {
	case cause := <-stdinErr:
		if err != nil {
			err = job.Errorf(job.KindOf(err), "%w (%w)", err, cause)
		}
	default:
	}
	return code, err
}

func (e *ClientExec) readOutput(in io.Reader, leave *allowance) (int, error) {
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
