package container

import (
	"errors"
	"fmt"
	"syscall"

	"shoal/runtime"
	"shoal/runtime/image"
	"shoal/runtime/network"
	"shoal/runtime/volume"
)

// kinds maps what the parts below report to the few kinds of the contract. The first match wins.
var kinds = []struct{ from, to error }{
	{syscall.ENOSPC, runtime.ErrNoSpace},
	{syscall.EDQUOT, runtime.ErrNoSpace},
	{image.ErrNotFound, runtime.ErrNotFound},
	{image.ErrInvalid, runtime.ErrInvalid},
	{image.ErrCorrupt, runtime.ErrBusy}, // the damaged file is out of the way: pulling again repairs it
	{image.ErrDenied, runtime.ErrDenied},
	{image.ErrUnavailable, runtime.ErrBusy},
	{network.ErrPortTaken, runtime.ErrConflict},
	{network.ErrNoAddress, runtime.ErrBusy},
	{network.ErrNotReady, runtime.ErrBusy},
	{network.ErrInvalid, runtime.ErrInvalid},
	{volume.ErrInvalid, runtime.ErrInvalid},
	{volume.ErrNotFound, runtime.ErrInvalid}, // a bind's host path: the container can never start here as it stands
	{syscall.EAGAIN, runtime.ErrBusy},
	{syscall.ENOMEM, runtime.ErrBusy},
	{syscall.EMFILE, runtime.ErrBusy},
	{syscall.ENFILE, runtime.ErrBusy},
}

var contractKinds = []error{
	runtime.ErrNotFound, runtime.ErrConflict, runtime.ErrInvalid, runtime.ErrNoSpace, runtime.ErrDenied, runtime.ErrBusy,
}

// kindOf marks err with the contract's kind, so that a caller's errors.Is works. Errors that have one, or that match
// nothing, stay as they are.
func kindOf(err error) error {
	if err == nil {
		return nil
	}
	for _, k := range contractKinds {
		if errors.Is(err, k) {
			return err
		}
	}
	for _, k := range kinds {
		if errors.Is(err, k.from) {
			return &kindError{kind: k.to, err: err}
		}
	}
	return err
}

// kindError adds a kind without changing the text.
type kindError struct{ kind, err error }

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// invalidf makes an ErrInvalid.
func invalidf(format string, args ...any) error {
	return &kindError{kind: runtime.ErrInvalid, err: fmt.Errorf(format, args...)}
}

// conflictf makes an ErrConflict.
func conflictf(format string, args ...any) error {
	return &kindError{kind: runtime.ErrConflict, err: fmt.Errorf(format, args...)}
}

// kindNames carry a kind from the launcher over its socket.
var kindNames = map[string]error{
	"conflict": runtime.ErrConflict, "invalid": runtime.ErrInvalid, "noSpace": runtime.ErrNoSpace,
	"denied": runtime.ErrDenied, "busy": runtime.ErrBusy, "notFound": runtime.ErrNotFound,
}

func kindName(err error) string {
	for name, k := range kindNames {
		if errors.Is(err, k) {
			return name
		}
	}
	return ""
}
