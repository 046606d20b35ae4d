package container

import (
	"errors"
	"fmt"
	"io/fs"

	"shoal/runtime"
	"shoal/runtime/container/stage"
	"shoal/runtime/image"
	"shoal/runtime/network"
	"shoal/runtime/volume"
)

// kinds maps what the parts below report to the few kinds of the contract.
var kinds = []stage.Kind{
	{From: image.ErrNotFound, To: runtime.ErrNotFound},
	{From: image.ErrInvalid, To: runtime.ErrInvalid},
	{From: image.ErrCorrupt, To: runtime.ErrBusy}, // the damaged file is out of the way: pulling again repairs it
	{From: image.ErrDenied, To: runtime.ErrDenied},
	{From: image.ErrUnavailable, To: runtime.ErrBusy},
	{From: network.ErrPortTaken, To: runtime.ErrConflict},
	{From: network.ErrNoAddress, To: runtime.ErrBusy},
	{From: network.ErrNotReady, To: runtime.ErrBusy},
	{From: network.ErrInvalid, To: runtime.ErrInvalid},
	{From: volume.ErrInvalid, To: runtime.ErrInvalid},
	{From: volume.ErrNotFound, To: runtime.ErrInvalid}, // a bind's host path: the container can never start here as it stands
}

// kindOf marks err with the contract's kind, so that a caller's errors.Is works.
func kindOf(err error) error { return stage.KindOf(err, kinds...) }

// conflictf makes an ErrConflict.
func conflictf(format string, args ...any) error {
	return stage.WithKind(runtime.ErrConflict, fmt.Errorf(format, args...))
}

// codeOf is the exit code that goes with an error, 0 if none.
func codeOf(err error) int {
	var r *stage.Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return 0
}

// isAbsent says that a file or directory is not there.
func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
