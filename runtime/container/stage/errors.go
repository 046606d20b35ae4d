package stage

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"shoal/runtime"
)

// A Kind says which of the contract's few kinds an error of a part below is.
type Kind struct{ From, To error }

var (
	noSpace = []Kind{{syscall.ENOSPC, runtime.ErrNoSpace}, {syscall.EDQUOT, runtime.ErrNoSpace}}
	passing = []Kind{
		{syscall.EAGAIN, runtime.ErrBusy}, {syscall.ENOMEM, runtime.ErrBusy}, {syscall.EMFILE, runtime.ErrBusy}, {syscall.ENFILE, runtime.ErrBusy},
	}
	contractKinds = []error{
		runtime.ErrNotFound, runtime.ErrConflict, runtime.ErrInvalid, runtime.ErrNoSpace, runtime.ErrDenied, runtime.ErrBusy,
	}
)

// KindOf marks err with the contract's kind, so that a caller's errors.Is works. Errors that have one, or that match
// neither the kernel's nor the caller's parts, stay as they are. The first match wins.
func KindOf(err error, parts ...Kind) error {
	if err == nil {
		return nil
	}
	for _, k := range contractKinds {
		if errors.Is(err, k) {
			return err
		}
	}
	for _, k := range slices.Concat(noSpace, parts, passing) {
		if errors.Is(err, k.From) {
			return WithKind(k.To, err)
		}
	}
	return err
}

// WithKind adds a kind without changing the text.
func WithKind(kind, err error) error { return &kindError{kind: kind, err: err} }

type kindError struct{ kind, err error }

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// Invalidf makes an ErrInvalid.
func Invalidf(format string, args ...any) error {
	return WithKind(runtime.ErrInvalid, fmt.Errorf(format, args...))
}

// Refusal is why a launcher or a process in a container did not start, as it goes over the socket.
type Refusal struct {
	Text string `json:"text"`
	Kind string `json:"kind,omitempty"` // of the contract, by name
	Code int    `json:"code,omitempty"` // 126 or 127: the command cannot be executed, as a shell says it
}

func (e *Refusal) Error() string { return e.Text }
func (e *Refusal) Unwrap() error { return kindNames[e.Kind] }

// kindNames carry a kind over the socket.
var kindNames = map[string]error{
	"conflict": runtime.ErrConflict, "invalid": runtime.ErrInvalid, "noSpace": runtime.ErrNoSpace,
	"denied": runtime.ErrDenied, "busy": runtime.ErrBusy, "notFound": runtime.ErrNotFound,
}

const kindInvalid = "invalid"

// refusalOf keeps of an error what goes over the socket.
func refusalOf(err error, text string) *Refusal {
	out := &Refusal{Text: text}
	err = KindOf(err)
	for name, k := range kindNames {
		if errors.Is(err, k) {
			out.Kind = name
		}
	}
	var r *Refusal
	if errors.As(err, &r) {
		out.Code = r.Code
	}
	return out
}
