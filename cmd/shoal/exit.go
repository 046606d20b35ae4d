package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"shoal/consensus/job"
)

// Exit codes, documented by `shoal help exit-codes` and stable.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitInvalid     = 5
	exitDenied      = 6
	exitUnavailable = 7
	exitUnhealthy   = 8
	// As a shell says it of a command that it cannot execute, and of one that is not there.
	exitNotExecutable = 126
	exitNoCommand     = 127
	exitInterrupted   = 130 // as a shell says it of a program that SIGINT ended: 128 and the signal's number
)

// exitCodes is the table for people.
func exitCodes() []struct {
	code    int
	meaning string
} {
	return []struct {
		code    int
		meaning string
	}{
		{0, "it worked; after `run`, `scale`, `start`, `restart` and `rollback`: and the job is healthy"},
		{exitFailed, "it was tried and did not work"},
		{exitUsage, "the command line is wrong"},
		{exitNotFound, "the thing named does not exist"},
		{exitConflict, "it exists already, or changed meanwhile, or the name fits several"},
		{exitInvalid, "the request can never be right, such as a Compose key that shoal does not honour"},
		{exitDenied, "you may not"},
		{exitUnavailable, "no agent, no leader or no quorum: trying again can help"},
		{exitUnhealthy, "submitted, but the job did not become healthy, or its update was rolled back"},
		{exitBroken, "from `chaos`: a promise was broken, or not everything could be undone"},
		{exitTimedOut, "from `run`, `restart` and `cron run`: a batch's deadline ended it; when its program failed, they exit with that one's code"},
		{exitOwn, "from `run IMAGE`: shoal's own failure, not the program's"},
		{exitNotExecutable, "from `run IMAGE`, `attach` and `exec`: the command cannot be executed in the container"},
		{exitNoCommand, "from `run IMAGE`, `attach` and `exec`: there is no such command in the container"},
		{exitInterrupted, "interrupted while waiting; what was submitted stays"},
	}
}

// codeOf maps an error to the exit code.
func codeOf(err error) int {
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	switch job.KindOf(err) {
	case "":
		return 0
	case job.NotFound:
		return exitNotFound
	case job.Conflict:
		return exitConflict
	case job.Invalid:
		return exitInvalid
	case job.Denied:
		return exitDenied
	case job.Unavailable:
		return exitUnavailable
	}
	return exitFailed
}

// exitError ends the program with a code of its own; an empty message says nothing.
type exitError struct {
	code    int
	message string
}

func (e *exitError) Error() string { return e.message }

func exitf(code int, format string, args ...any) error {
	return &exitError{code: code, message: fmt.Sprintf(format, args...)}
}

// report prints an error once and gives its exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	code, message := codeOf(err), err.Error()
	var exit *exitError
	if errors.As(err, &exit) {
		code, message = exit.code, exit.message
	} else if code == exitInterrupted {
		message = "interrupted"
	}
	if message != "" {
		fmt.Fprintln(w, "shoal: "+strings.TrimRight(message, "\n"))
	}
	return code
}
