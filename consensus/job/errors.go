package job

import (
	"errors"
	"fmt"
)

// Kind is why a request could not be done. Each maps to one HTTP status and one exit code (node/api, cmd/shoal), and
// survives the wire: errors.Is(err, job.NotFound) works in the client too.
type Kind string

// The kinds.
const (
	NotFound    Kind = "not-found"   // the thing named does not exist
	Conflict    Kind = "conflict"    // it exists, or changed since it was read
	Invalid     Kind = "invalid"     // the request cannot be right; trying again does not help
	Denied      Kind = "denied"      // the caller may not
	Unavailable Kind = "unavailable" // no leader, no quorum, node out of reach: trying again can help
	Internal    Kind = "internal"    // a fault of shoal's own
)

// Error makes a Kind an error, so that it can be a target of errors.Is.
func (k Kind) Error() string { return string(k) }

// Error is a message with a kind. The message says what was tried, on what, why it failed, and the next step.
type Error struct {
	Kind    Kind
	Message string
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is(err, job.NotFound) true for an error of that kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// Errorf makes an Error; a %w verb is honoured in the text only.
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Message: fmt.Errorf(format, args...).Error()}
}

// KindOf tells an error's kind; Internal when it has none, "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}
