package node

import "time"

// wall is the machine's wall clock: for times that people read, that other machines are told, and that are agreed upon by
// their nature (a token's end, a certificate's, a schedule). Somebody may set it at any moment. Whatever waits goes by
// time.Now, whose differences are monotonic.
func (n *Node) wall() time.Time {
	if n.cfg.Wall != nil {
		return n.cfg.Wall()
	}
	return time.Now()
}

// anchored brings times of the log, which some machine's wall clock gave, onto this machine's monotonic clock: each
// when it is first seen, so that no clock that is set afterwards matters, and never later than that. One goroutine owns it.
type anchored[K comparable] struct {
	n    *Node
	seen map[K]anchor
}

type anchor struct{ at, here time.Time }

func (a *anchored[K]) past(key K, at time.Time) time.Time {
	if s, ok := a.seen[key]; ok && s.at.Equal(at) {
		return s.here
	}
	if a.seen == nil {
		a.seen = map[K]anchor{}
	}
	s := anchor{at, time.Now().Add(-max(0, a.n.wall().Round(0).Sub(at)))}
	a.seen[key] = s
	return s.here
}

// forget drops what is no more; the keys are bounded by nodes and services.
func (a *anchored[K]) forget(key K) { delete(a.seen, key) }
