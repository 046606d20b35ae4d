package gossip

import (
	"time"
	_ "unsafe" // for go:linkname

	"github.com/hashicorp/memberlist"
)

// memberlist v0.7.0 tells nobody of suspicion: there is no callback, and the State of the nodes that Members returns is
// never filled in (the library's own state has a field of the same name that hides it). It has the two methods that are
// needed, but does not export them. They take the library's read lock and panic for an unknown name. If a later version
// drops them, the link fails; if it changes their meaning, TestSuspectComesBeforeDead does.

//go:linkname memberlistState github.com/hashicorp/memberlist.(*Memberlist).getNodeState
func memberlistState(m *memberlist.Memberlist, name string) memberlist.NodeStateType

//go:linkname memberlistStateChange github.com/hashicorp/memberlist.(*Memberlist).getNodeStateChange
func memberlistStateChange(m *memberlist.Memberlist, name string) time.Time

// stateOf returns what memberlist thinks of a node and since when. ok is false when it does not know the node, or does
// not know it any more: it drops the dead after Timing.DeadGossip.
func stateOf(m *memberlist.Memberlist, id string) (state State, since time.Time, ok bool) {
	defer func() {
		if recover() != nil {
			state, since, ok = 0, time.Time{}, false
		}
	}()
	raw := memberlistState(m, id)
	since = memberlistStateChange(m, id)
	switch raw {
	case memberlist.StateAlive:
		return Alive, since, true
	case memberlist.StateSuspect:
		return Suspect, since, true
	case memberlist.StateLeft:
		return Left, since, true
	default:
		return Dead, since, true
	}
}
