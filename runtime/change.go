package runtime

import (
	"maps"
	"time"
)

// Change is all of a Spec that can be changed while its container runs. It is told as a whole: a zero value means what it
// means in a Spec, not "as before".
type Change struct {
	Labels     map[string]string
	Resources  Resources
	StopSignal string
	StopGrace  time.Duration
}

// Changeable gives the part of a spec that can be changed.
func (s Spec) Changeable() Change {
	return Change{Labels: s.Labels, Resources: s.Resources, StopSignal: s.StopSignal, StopGrace: s.StopGrace}
}

// With gives the spec after a change.
func (s Spec) With(t Change) Spec {
	s.Labels, s.Resources, s.StopSignal, s.StopGrace = maps.Clone(t.Labels), t.Resources, t.StopSignal, t.StopGrace
	return s
}
