// Package chaos breaks a cluster of the shipped binary on purpose, at random but by a seed, while clients load it and
// services run on it, and judges what came of it by what anybody can see: public APIs, the kernel, the clients' own
// histories and an outside recorder. It knows nothing of how shoal keeps its promises.
package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"shoal/e2e/machines"
)

// Fault is one way to break a cluster. A fault_*.go file holds those of one kind and a line each in Faults.
type Fault struct {
	Name   string
	Weight int // of being chosen; 0 is never, unless it is asked for by name
	// Class is what two faults at a time must not share, such as "net" for the rules of the switch or "disk"; "": nothing
	// but the machines, of which each bears one fault at most.
	Class string
	// Alone faults never overlap another, for such as destroy the only copy but one of something.
	Alone bool
	// Slow faults take over ten seconds with their recovery; a short run leaves them out.
	Slow bool
	// Play begins it and returns once it holds. Randomness comes from r alone, so that a seed gives the same faults again;
	// which machine leads is the cluster's choice. ErrNotNow: it cannot be played as things are; nothing was done.
	Play func(ctx context.Context, w *World, r *rand.Rand) (*Broken, error)
}

// ErrNotNow says that a fault cannot be played as things are, such as when no machine is free. It is not counted.
var ErrNotNow = errors.New("not as things are")

// Broken is a fault under way.
type Broken struct {
	What string        // for people: "m3 hears nothing from m1"
	For  time.Duration // how long it should hold before End; a short run may cut it
	// On are the machines under it: no other fault picks them, and clients need not reach them, until End.
	On []*machines.Machine
	// Acted, asked at the end of For and before End, is nil if the kernel or a public API showed that the fault acted;
	// else the run is void, or, after a notKept, a promise was broken. It is asked again for a while. nil: Play saw it itself.
	Acted func() error
	// End undoes it; afterwards the product is on its own: agents that are to run are started. What it returns ends the run.
	End func(context.Context) error
	// Allows is what it may cost by design. It is asked for when the fault ended.
	Allows Allowance
}

// notKept is what Acted says of a fault that acted, and that the product did not take as it promises.
type notKept struct{ promise, what string }

func (n notKept) Error() string { return n.promise + ": " + n.what }

// Allowance is what a fault may cost by design, beyond which nothing may be lost. The zero value: nothing but time.
type Allowance struct {
	// Restarts are machines whose containers may end and begin again: their power was cut, their memory ran out.
	Restarts []*machines.Machine
	// Moves are machines whose tasks may be placed elsewhere, because the fault can last long enough for them to be called
	// down. A task that stays in the log all the same must still have its process.
	Moves []*machines.Machine
	// MovesAll says that of every machine: the fault can make any of them be called down.
	MovesAll bool
	// LogGaps are machines whose containers may lose log lines, if the product says how many or if the machine lost power.
	LogGaps []*machines.Machine
	// Gone are machines whose data is gone: their logs, volumes and images, and their old node, count no more.
	Gone []*machines.Machine
	// NoQuorum says that the cluster may have been without a leader: the load's floor does not count for that time.
	NoQuorum bool
}
