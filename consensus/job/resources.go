package job

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Generic is a countable thing of a node that it gives to one task at a time: GPUs, licences.
type Generic struct {
	Kind string `json:"kind"` // [a-z0-9][a-z0-9_.-]{0,62}, as people write it: "gpu"
	// IDs name each one, in the order in which they are given away, unique; empty: they have no names, and Count tells
	// how many there are. At most MaxGenericIDs.
	IDs   []string `json:"ids,omitempty"`
	Count int      `json:"count,omitempty"` // 0 when there are IDs
}

// Total is how many there are.
func (g *Generic) Total() int {
	if len(g.IDs) > 0 {
		return len(g.IDs)
	}
	return g.Count
}

// GenericRequest is how many of a kind each task of a service gets for itself.
type GenericRequest struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"` // from 1
}

// Bounds of what a node reports.
const (
	MaxAttributes     = 64
	MaxAttributeBytes = 1 << 10 // name and value
	MaxGenericIDs     = 256
	MaxGenericCount   = 1_000_000
)

// Overcommit tells how much of a node's Capacity is given away, in percent; 0 is 100.
type Overcommit struct {
	CPUPercent    int `json:"cpuPercent,omitempty"`
	MemoryPercent int `json:"memoryPercent,omitempty"`
}

// Bounds of an Overcommit's percentages.
const (
	MinOvercommit = 10
	MaxOvercommit = 10_000
)

// Allocatable is what the node has for tasks: its Capacity with its Overcommit.
func (n *Node) Allocatable() Resources {
	c := n.Capacity
	if o := n.Overcommit; o != nil {
		c.NanoCPUs = percent(c.NanoCPUs, o.CPUPercent)
		c.MemoryBytes = percent(c.MemoryBytes, o.MemoryPercent)
	}
	return c
}

// percent does not overflow: capacities are below 1<<50.
func percent(v int64, p int) int64 {
	if p == 0 {
		return v
	}
	return v/100*int64(p) + v%100*int64(p)/100
}

// GenericTotal is how many of a kind the node has.
func (n *Node) GenericTotal(kind string) int {
	for i := range n.Generic {
		if n.Generic[i].Kind == kind {
			return n.Generic[i].Total()
		}
	}
	return 0
}

// HasGeneric tells whether the node has this one of a kind.
func (n *Node) HasGeneric(kind, id string) bool {
	return slices.ContainsFunc(n.Generic, func(g Generic) bool { return g.Kind == kind && slices.Contains(g.IDs, id) })
}

// FreeGeneric chooses count of a kind that are not among used, in the node's order; nil for a kind without names. The
// caller has checked that there are so many.
func (n *Node) FreeGeneric(kind string, count int, used func(id string) bool) (ids []string) {
	for i := range n.Generic {
		if n.Generic[i].Kind != kind {
			continue
		}
		for _, id := range n.Generic[i].IDs {
			if len(ids) < count && !used(id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// CheckReported says what is wrong with what a node reports of itself, nil if nothing.
func (n *Node) CheckReported() error {
	if len(n.Attributes) > MaxAttributes {
		return Errorf(Invalid, "%d attributes are more than %d", len(n.Attributes), MaxAttributes)
	}
	for k, v := range n.Attributes {
		if len(k)+len(v) > MaxAttributeBytes {
			return Errorf(Invalid, "attribute %s is longer than %d bytes", quoteIfOdd(k), MaxAttributeBytes)
		}
	}
	if err := n.Overcommit.Check(); err != nil {
		return err
	}
	return checkGeneric(n.Generic)
}

// Check says what is wrong with an Overcommit, nil if nothing or if there is none.
func (o *Overcommit) Check() error {
	if o == nil {
		return nil
	}
	for _, p := range []int{o.CPUPercent, o.MemoryPercent} {
		if p != 0 && (p < MinOvercommit || p > MaxOvercommit) {
			return Errorf(Invalid, "overcommit of %g is not within %g and %g", float64(p)/100, MinOvercommit/100.0, MaxOvercommit/100.0)
		}
	}
	return nil
}

func checkGeneric(gs []Generic) error {
	if len(gs) > MaxGeneric {
		return Errorf(Invalid, "%d kinds of resources are more than %d", len(gs), MaxGeneric)
	}
	for i, g := range gs {
		switch {
		case !validKind(g.Kind):
			return Errorf(Invalid, "%s is not a resource's name; use letters, digits, _ . and -", quoteIfOdd(g.Kind))
		case i > 0 && gs[i-1].Kind >= g.Kind:
			return Errorf(Invalid, "resource %s is out of order or there twice", g.Kind)
		case len(g.IDs) > MaxGenericIDs:
			return Errorf(Invalid, "resource %s: %d ids are more than %d", g.Kind, len(g.IDs), MaxGenericIDs)
		case g.Count < 0 || g.Count > MaxGenericCount || g.Total() == 0:
			return Errorf(Invalid, "resource %s: a count of %d is not within 1 and %d", g.Kind, g.Count, MaxGenericCount)
		}
		for _, id := range g.IDs {
			if id == "" || len(id) > MaxHostname*2 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' }) {
				return Errorf(Invalid, "resource %s: %s is not an id; use at most %d visible characters without commas", g.Kind, quoteIfOdd(id), MaxHostname*2)
			}
		}
		if s := slices.Sorted(slices.Values(g.IDs)); len(slices.Compact(s)) != len(g.IDs) {
			return Errorf(Invalid, "resource %s: an id is there twice", g.Kind)
		}
	}
	return nil
}

func validKind(s string) bool {
	if s == "" || len(s) > MaxHostname || !isAlnum(rune(s[0])) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !isAlnum(r) && !strings.ContainsRune("_.-", r) })
}

func isAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// ParseGeneric reads what a node declares: "gpu=2" for two without names, "gpu=uuid1,uuid2" for named ones, or Docker's
// "gpu=uuid1" "gpu=uuid2". The result is sorted by kind. Errors are of kind Invalid.
func ParseGeneric(words []string) ([]Generic, error) {
	by := map[string]*Generic{}
	for _, w := range words {
		kind, value, ok := strings.Cut(w, "=")
		if kind, value = strings.TrimSpace(kind), strings.TrimSpace(value); !ok || value == "" {
			return nil, Errorf(Invalid, "resource %q: write NAME=COUNT or NAME=ID,ID, for example gpu=2", shorten(w))
		}
		g := by[kind]
		if g == nil {
			g = &Generic{Kind: kind}
			by[kind] = g
		}
		if n, err := strconv.Atoi(value); err == nil {
			if len(g.IDs) > 0 || g.Count != 0 {
				return nil, Errorf(Invalid, "resource %q: %s is declared twice; leave one", shorten(w), kind)
			}
			g.Count = n
			continue
		}
		if g.Count != 0 {
			return nil, Errorf(Invalid, "resource %q: %s has a count already; give either ids or a count", shorten(w), kind)
		}
		for id := range strings.SplitSeq(value, ",") {
			g.IDs = append(g.IDs, strings.TrimSpace(id))
		}
	}
	var out []Generic
	for _, k := range slices.Sorted(maps.Keys(by)) {
		out = append(out, *by[k])
	}
	return out, checkGeneric(out)
}

// ParsePercent reads a factor such as "1.5" or a percentage such as "150%" into percent. Errors are of kind Invalid.
func ParsePercent(s string) (int, error) {
	text, isPercent := strings.CutSuffix(strings.TrimSpace(s), "%")
	v, ok := parseDecimal(text, 100)
	if isPercent {
		v /= 100
	}
	if !ok || v < MinOvercommit || v > MaxOvercommit {
		return 0, Errorf(Invalid, "factor %q: write for example 1.5; it takes %g to %g", shorten(s), MinOvercommit/100.0, MaxOvercommit/100.0)
	}
	return int(v), nil
}

func (g Generic) String() string {
	if len(g.IDs) > 0 {
		return g.Kind + "=" + strings.Join(g.IDs, ",")
	}
	return fmt.Sprintf("%s=%d", g.Kind, g.Count)
}
