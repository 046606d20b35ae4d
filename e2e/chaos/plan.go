package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// step is one or two faults that are played at about the same time.
type step struct {
	faults []play
	// lag is when the second begins, as a part of the time for which the first one holds.
	lag float64
}

// play is a fault with the seed of its own randomness.
type play struct {
	*Fault
	seed uint64
}

func (p play) rand() *rand.Rand { return rand.New(rand.NewPCG(p.seed, 2)) }

// overlap is how often a second fault begins during the first.
const overlap = 0.4

// planner chooses what is played. What it gives depends on its seed and its faults alone, never on what happens.
type planner struct {
	r      *rand.Rand
	faults []*Fault
}

func newPlanner(seed uint64, faults []*Fault) *planner {
	return &planner{rand.New(rand.NewPCG(seed, 1)), faults}
}

// next gives the next step, of at most so many faults.
func (p *planner) next(most int) step {
	first := p.one(p.faults)
	s := step{faults: []play{first}, lag: p.r.Float64()}
	want := p.r.Float64() < overlap
	others := slices.DeleteFunc(slices.Clone(p.faults), func(f *Fault) bool {
		return f.Alone || f.Class != "" && f.Class == first.Class
	})
	second := p.one(others) // drawn always: the next step must not depend on this one
	if want && most > 1 && !first.Alone && second.Fault != nil {
		s.faults = append(s.faults, second)
	}
	return s
}

func (p *planner) one(of []*Fault) play {
	total := 0
	for _, f := range of {
		total += f.Weight
	}
	seed, k := p.r.Uint64(), 0
	if total > 0 {
		k = p.r.IntN(total)
	}
	for _, f := range of {
		if k -= f.Weight; k < 0 {
			return play{f, seed}
		}
	}
	return play{}
}

// choose picks faults: all that have a weight, or those that only names ("kill-agent,isolate=3").
func choose(all []Fault, only string, short bool) ([]*Fault, error) {
	var out []*Fault
	if only == "" {
		for i := range all {
			if all[i].Weight > 0 && !(short && all[i].Slow) {
				out = append(out, &all[i])
			}
		}
		return out, nil
	}
	for _, word := range strings.Split(only, ",") {
		name, weight, weighed := strings.Cut(word, "=")
		i := slices.IndexFunc(all, func(f Fault) bool { return f.Name == name })
		if i < 0 {
			var names []string
			for _, f := range all {
				names = append(names, f.Name)
			}
			return nil, fmt.Errorf("no fault is named %q: there are %s", name, strings.Join(names, ", "))
		}
		f := all[i]
		f.Weight = max(f.Weight, 1)
		if weighed {
			n, err := strconv.Atoi(weight)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("fault %s: weight %q: want a number from 1", name, weight)
			}
			f.Weight = n
		}
		out = append(out, &f)
	}
	return out, nil
}
