package nodetest

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"shoal/consensus/job"
)

// change is one request of the simulated admin about one job.
type change struct {
	kind     string // submit, scale, stop, rm
	job      string
	spec     job.Spec       // of submit, normalized
	replicas map[string]int // of scale
}

func (c change) String() string {
	switch c.kind {
	case "submit":
		var s []string
		for _, sv := range c.spec.Services {
			s = append(s, fmt.Sprintf("%s %s x%d %s restart=%q %v", sv.Name, sv.Mode, sv.Replicas, sv.Image, sv.Restart.Policy, sv.Constraints))
		}
		return fmt.Sprintf("submit %s (%s)", c.job, strings.Join(s, "; "))
	case "scale":
		return fmt.Sprintf("scale %s %v", c.job, c.replicas)
	}
	return c.kind + " " + c.job
}

// jobState is a job as the model has it; nil is no job.
type jobState struct {
	Stopped  bool
	Services []job.Service
}

func (s *jobState) key() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic("nodetest: " + err.Error())
	}
	return string(b)
}

func parseState(key string) *jobState {
	var s *jobState
	if err := json.Unmarshal([]byte(key), &s); err != nil {
		panic("nodetest: " + err.Error())
	}
	return s
}

// apply says what a change makes of a job; refused: it is an error and changes nothing.
func (c change) apply(key string) (after string, refused bool) {
	if c.kind == "submit" {
		return (&jobState{Services: c.spec.Services}).key(), false
	}
	s := parseState(key)
	if s == nil {
		return key, true
	}
	switch c.kind {
	case "stop":
		s.Stopped = true
	case "rm":
		s = nil
	case "scale":
		for name, k := range c.replicas {
			found := false
			for i := range s.Services {
				if sv := &s.Services[i]; sv.Name == name && sv.Mode != job.Global {
					sv.Replicas, found = k, true
				}
			}
			if !found {
				return key, true
			}
		}
	}
	return s.key(), false
}

// history is what may be true of one job after what the admin asked for and was told. A change whose outcome is not known
// may take effect at any later time, or never.
type history struct {
	changes []change
	open    uint64         // changes of unknown outcome, by number
	worlds  map[world]bool // all that may be
}

type world struct {
	state string
	fired uint64 // open changes that have taken effect here
}

func newHistory() *history {
	return &history{worlds: map[world]bool{{state: (*jobState)(nil).key()}: true}}
}

// maxOpen bounds changes of unknown outcome per job, and with them the worlds.
const maxOpen = 8

// begin notes that a change was asked for; its outcome is open until known.
func (h *history) begin(c change) int {
	h.changes = append(h.changes, c)
	i := len(h.changes) - 1
	h.open |= 1 << i
	h.spread()
	return i
}

// full tells that no more changes can be taken in.
func (h *history) full() bool {
	n := 0
	for o := h.open; o != 0; o &= o - 1 {
		n++
	}
	return n >= maxOpen || len(h.changes) >= 62
}

// spread adds the worlds in which open changes take effect now.
func (h *history) spread() {
	for again := true; again; {
		again = false
		for w := range h.worlds {
			for i, c := range h.changes {
				bit := uint64(1) << i
				if h.open&bit == 0 || w.fired&bit != 0 {
					continue
				}
				after, _ := c.apply(w.state) // refused: nothing changes, and it can still not fire again
				if n := (world{after, w.fired | bit}); !h.worlds[n] {
					h.worlds[n] = true
					again = true
				}
			}
		}
	}
}

// done notes how a change ended: done, or refused as one that cannot be. False if that cannot have been.
func (h *history) done(i int, refused bool) bool {
	bit := uint64(1) << i
	next := map[world]bool{}
	for w := range h.worlds {
		fired := w.fired&bit != 0
		after, no := h.changes[i].apply(w.state)
		switch {
		case fired && !refused:
			next[world{w.state, w.fired &^ bit}] = true
		case !fired && refused && no:
			next[world{w.state, w.fired}] = true
		case fired && refused: // refused at its first try, which was not heard
			next[world{w.state, w.fired &^ bit}] = true
		case !fired && !refused && !no:
			next[world{after, w.fired}] = true
		}
	}
	h.open &^= bit
	if len(next) == 0 {
		return false
	}
	h.worlds = next
	h.spread()
	return true
}

// allows tells whether the job may be so.
func (h *history) allows(s *jobState) bool {
	k := s.key()
	for w := range h.worlds {
		if w.state == k {
			return true
		}
	}
	return false
}

// states lists what the job may be, for people.
func (h *history) states() string {
	var out []string
	for w := range h.worlds {
		out = append(out, w.state)
	}
	sort.Strings(out)
	return strings.Join(out, "\n  or ")
}
