package consensus

import (
	"errors"
	"fmt"
)

// DamageError says that a file in the raft directory is not what was written there. Nothing of it was used. A node whose
// cluster has a quorum without it sets the directory aside and comes in anew (see Renew); another refuses to start.
type DamageError struct {
	File string
	Err  error // what was found
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged: %v; restore the directory that it is in from a copy as a whole, or empty the data directory and begin anew (where there is a cluster, with a join token)", e.File, e.Err)
}

// Unwrap gives what was found.
func (e *DamageError) Unwrap() error { return e.Err }

// errDamaged says that a store's content makes no sense.
var errDamaged = errors.New("damaged content")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}
