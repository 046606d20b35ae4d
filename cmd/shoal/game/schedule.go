package game

import (
	"math/rand/v2"
	"slices"
	"time"

	"shoal/node/gameday"
)

// Leader stands for whichever node leads when a fault begins.
const Leader = "the leader"

// Planned is a fault of the schedule.
type Planned struct {
	Round   int           `json:"round"`          // from 1; faults of one round begin together
	At      time.Duration `json:"at"`             // since the game's start; not before
	Fault   string        `json:"fault"`          //
	Node    string        `json:"node"`           // or Leader
	Peer    string        `json:"peer,omitempty"` // the other end of a cut pair
	Hold    time.Duration `json:"hold"`
	Percent int           `json:"percent,omitempty"` // of packets lost
	// Pick chooses among the tasks that the node has then: the one at Pick modulo their number.
	Pick int `json:"pick,omitempty"`
}

const (
	// maxRounds bounds a schedule.
	maxRounds = 20_000
	// stream sets the generator of schedules apart from others with the same seed.
	stream = 0x67616d65
	// leaderShare is how many of the nodes' turns are followed by one of the leader.
	leaderShare = 2
)

// Schedule is what a game plays: a function of the options and of the nodes' names, sorted, alone. Each fault comes once
// before any comes again, and so does each node; in between it is the leader's turn, unless nodes were named.
func Schedule(o Options, nodes []string) []Planned {
	rng := rand.New(rand.NewPCG(o.Seed, stream))
	targets := slices.Clone(nodes)
	if len(o.Nodes) == 0 && len(nodes) > 1 {
		for range max(1, len(nodes)/leaderShare) {
			targets = append(targets, Leader)
		}
	}
	fault, target := bag(rng, o.Faults), bag(rng, targets)
	var out []Planned
	var at time.Duration
	for round := 1; at < o.For && round <= maxRounds && (o.Rounds == 0 || round <= o.Rounds); round++ {
		var longest time.Duration
		var hit []string
		for range 1 + rng.IntN(min(o.MaxDown, len(nodes))) {
			kind, _ := gameday.Find(fault()) // Check has found it
			p := Planned{Round: round, At: at, Fault: kind.Name, Node: target(), Pick: rng.IntN(1 << 16), Hold: holdOf(rng, kind, o.Hold)}
			if kind.Name == gameday.PacketLoss {
				p.Percent = 10 + rng.IntN(21)
			}
			peer := rng.IntN(len(nodes))
			if kind.Name == gameday.CutPair && len(nodes) > 1 {
				if nodes[peer] == p.Node {
					peer = (peer + 1) % len(nodes)
				}
				p.Peer = nodes[peer]
			}
			if slices.Contains(hit, p.Node) {
				continue // one at a time on each node
			}
			hit = append(hit, p.Node)
			longest = max(longest, p.Hold)
			out = append(out, p)
		}
		at += max(o.Every, longest+o.Pause, time.Second)
	}
	return out
}

// holdOf draws how long a fault is held, in tenths of a second.
func holdOf(rng *rand.Rand, kind gameday.Fault, most time.Duration) time.Duration {
	const step = 100 * time.Millisecond
	d := kind.Least + step*time.Duration(rng.Int64N(int64((kind.Most-kind.Least)/step)+1))
	if most > 0 && kind.Name != gameday.PowerOff { // that one is how long a machine may take to boot
		d = min(d, most)
	}
	return d
}

// bag deals all of things in random order, again and again.
func bag(rng *rand.Rand, things []string) func() string {
	var left []string
	return func() string {
		if len(left) == 0 {
			left = slices.Clone(things)
			rng.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		}
		next := left[0]
		left = left[1:]
		return next
	}
}
