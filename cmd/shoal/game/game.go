// Package game plays a game day on a cluster as an admin's client: a schedule of faults out of a seed, guards that keep the
// cluster's majority, probes while it plays, and a judgement of what shoal promises. It acts through the API alone and
// knows nothing of how a node breaks itself.
package game

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/gameday"
)

// Options of a game.
type Options struct {
	For time.Duration // faults begin within this time
	// Rounds bounds how many rounds of faults are played; 0: as many as the time allows.
	Rounds int
	Seed   uint64
	// Faults that are played; empty: the safe ones.
	Faults []string
	// Nodes that are hit, by name; empty: all.
	Nodes []string
	// Jobs that are watched; empty: all that run when the game begins.
	Jobs []string
	// Every is how often a round of faults begins at most; Pause how long the cluster is left alone between two.
	Every, Pause time.Duration
	// Hold bounds how long a fault is held; 0: as the catalogue says.
	Hold time.Duration
	// MaxDown nodes are hit at a time.
	MaxDown int
	// Within is how soon after a fault's end everything must run again.
	Within time.Duration
	// SizeBytes bounds what memory and disk faults take; 0: as the catalogue says.
	SizeBytes int64
	// NoQuorumNeeded: a fault may take the majority of the voters away.
	NoQuorumNeeded bool
	// Yes: destructive faults are meant.
	Yes bool
	// Settle is how long a cluster that is not whole may take to become so before the game is refused; 0: it is at once.
	Settle time.Duration
	// KeepGoing plays on when a promise was broken.
	KeepGoing bool
}

// Bounds of a game.
const (
	maxFor     = 24 * time.Hour
	maxDownCap = 100
)

// Check refuses options that can never be right, with the next step.
func (o *Options) Check() error {
	invalid := func(format string, args ...any) error { return job.Errorf(job.Invalid, format, args...) }
	switch {
	case o.For <= 0 || o.For > maxFor:
		return invalid("--for %v: a game takes a time such as 10m, at most %v", o.For, maxFor)
	case o.Rounds < 0:
		return invalid("--rounds %d: it takes a number above 0", o.Rounds)
	case o.Every < 0 || o.Pause < 0:
		return invalid("--every and --pause take times such as 30s")
	case o.Hold < 0 || o.Hold > gameday.MaxHold:
		return invalid("--hold %v: a fault is held for at most %v", o.Hold, gameday.MaxHold)
	case o.MaxDown < 1 || o.MaxDown > maxDownCap:
		return invalid("--max-down %d: it takes 1 to %d", o.MaxDown, maxDownCap)
	case o.Within < time.Second:
		return invalid("--within %v: it takes at least a second", o.Within)
	case o.SizeBytes < 0:
		return invalid("--size: it takes a size such as 64m")
	}
	if len(o.Faults) == 0 {
		o.Faults = gameday.Names(gameday.Safe)
	}
	var destructive []string
	for i, name := range o.Faults {
		f, err := gameday.Find(name)
		switch {
		case err != nil:
			return invalid("--faults: %w; `shoal chaos ls` tells what they do", err)
		case slices.Contains(o.Faults[:i], name):
			return invalid("--faults: %s is named twice", name)
		case f.Destructive:
			destructive = append(destructive, name+" "+f.What)
		}
	}
	if len(destructive) > 0 && !o.Yes {
		return invalid("%s. If that is meant, add --yes", strings.Join(destructive, "; "))
	}
	return nil
}

// Cluster is what a game needs of a cluster; *api.Client is one.
type Cluster interface {
	Status(ctx context.Context) (api.Status, error)
	Nodes(ctx context.Context) (api.NodeList, error)
	Jobs(ctx context.Context) (api.JobList, error)
	Job(ctx context.Context, name string, versions bool) (api.JobDetail, error)
	Tasks(ctx context.Context, q api.TaskQuery) (api.TaskList, error)
	SetLabels(ctx context.Context, node string, labels map[string]string) error
	Chaos(ctx context.Context, node job.NodeID) (api.ChaosStatus, error)
	JoinGame(ctx context.Context, node job.NodeID, g api.ChaosGame) error
	Inject(ctx context.Context, node job.NodeID, r api.ChaosRequest) (api.ChaosFault, error)
	StopGame(ctx context.Context, node job.NodeID, game string) (*api.ChaosOutcome, error)
	NoteGame(ctx context.Context, n api.ChaosNote) error
}

var _ Cluster = (*api.Client)(nil)

// probeLabel is the node label that the probes write; it is removed in the end.
const probeLabel = "shoal.chaos.probe"

// askPatience bounds one question to the cluster.
const askPatience = 5 * time.Second

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
