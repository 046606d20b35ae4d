// Package image knows the container images of one machine: it loads, pulls, fetches, verifies, unpacks, serves and forgets
// them, all in one content-addressed directory. It refuses to know containers, jobs and nodes: who uses an image is an
// opaque owner string, and a peer is any [Source].
//
// What comes in is untrusted: every digest is verified before a name points at it, every size has a limit (limits.go),
// and an image becomes visible in one rename or not at all. DESIGN.md tells the flow and what a crash can cost.
package image

import (
	"errors"
	"fmt"
	"syscall"
)

// Kinds of errors, to be tested with errors.Is. Other errors are of the disk or the network and may pass when tried again.
var (
	// ErrNotFound: no image of that name, digest or prefix here (Get, Tag, Remove, Hold, Save) or there (Pull, Fetch).
	ErrNotFound = errors.New("image not found")
	// ErrInvalid: the input breaks a format, a digest or a limit. Trying again with the same bytes cannot help.
	ErrInvalid = errors.New("invalid image")
	// ErrCorrupt: this node's own copy is damaged. The damaged file is out of the way already, so that Pull, Fetch or Load
	// of the same image repairs it.
	ErrCorrupt = errors.New("damaged image")
	// ErrInUse: the image is held by an owner and cannot be removed.
	ErrInUse = errors.New("image in use")
	// ErrDenied: the registry refuses without (better) credentials.
	ErrDenied = errors.New("access denied")
	// ErrUnavailable: the registry cannot answer now (rate limit, overload). Trying again later can help.
	ErrUnavailable = errors.New("registry unavailable")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("image store is closed")
)

// invalidf makes an ErrInvalid whose message is the reason alone.
func invalidf(format string, args ...any) error {
	return &kindError{kind: ErrInvalid, err: fmt.Errorf(format, args...)}
}

// kindError is an error that is also of a kind, without repeating the kind's words.
type kindError struct {
	kind error
	err  error
}

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// spaceErrors are those of a full disk.
var spaceErrors = [...]error{syscall.ENOSPC, syscall.EDQUOT}

// explainSpace adds the next step to the error of a full disk, and leaves others alone.
func (s *Store) explainSpace(err error) error {
	if onlySpace(err) != nil {
		return fmt.Errorf("%w (disk of the image store %s is full: remove images or enlarge it)", err, s.dir)
	}
	return err
}
