package container

import "time"

// SetStartLimit is for a test that would take too long otherwise. It gives back what puts the limit right again.
func SetStartLimit(d time.Duration) func() {
	before := startLimit
	startLimit = d
	return func() { startLimit = before }
}

// SetCopyPatience is for a test that would take too long otherwise. It gives back what puts it right again.
func SetCopyPatience(d time.Duration) func() {
	before := copyPatience
	copyPatience = d
	return func() { copyPatience = before }
}
