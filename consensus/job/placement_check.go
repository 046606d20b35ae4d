package job

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// normalizePlacement brings equal ways to say the same into one form. own is the job's name.
func (s *Service) normalizePlacement(own string) {
	if s.Priority != nil && *s.Priority == DefaultPriority {
		s.Priority = nil
	}
	s.Generic = normalGeneric(s.Generic)
	pl := s.Placement
	if pl == nil {
		return
	}
	for i := range pl.Peers {
		if name, ok := strings.CutPrefix(pl.Peers[i].Service, own+"/"); ok {
			pl.Peers[i].Service = name
		}
		if by := &pl.Peers[i].By; *by == keyID || *by == keyHostname || *by == keyName || *by == "node" {
			*by = ""
		}
	}
	slices.SortStableFunc(pl.Peers, func(a, b Peer) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.By, b.By), compareBool(a.Apart, b.Apart), cmp.Compare(a.Weight, b.Weight))
	})
	pl.Peers = slices.Compact(pl.Peers)
	slices.SortStableFunc(pl.Prefer, func(a, b Preference) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Op, b.Op), strings.Compare(a.Value, b.Value), cmp.Compare(a.Weight, b.Weight))
	})
	pl.Prefer = slices.Compact(pl.Prefer)
	if len(pl.Spread) == 0 && pl.MaxPerNode == 0 && len(pl.Prefer) == 0 && len(pl.Peers) == 0 {
		s.Placement = nil
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// normalGeneric sorts by kind and adds up what is asked twice.
func normalGeneric(gs []GenericRequest) []GenericRequest {
	slices.SortStableFunc(gs, func(a, b GenericRequest) int { return strings.Compare(a.Kind, b.Kind) })
	out := gs[:0]
	for _, g := range gs {
		if n := len(out); n > 0 && out[n-1].Kind == g.Kind {
			out[n-1].Count += g.Count
			continue
		}
		out = append(out, g)
	}
	return out
}

func (s *Service) validatePlacement(p *problems, at string, spec *Spec) {
	if pr := s.PriorityOf(); pr < 0 || pr > MaxPriority {
		p.add(at+".x-priority", "%d is not within 0 and %d", pr, MaxPriority)
	}
	if s.Strategy != "" && s.Strategy != StrategySpread && s.Strategy != StrategyBinpack {
		p.add(at+".x-placement.strategy", "%q is not known; use %s or %s", shorten(string(s.Strategy)), StrategySpread, StrategyBinpack)
	}
	s.validateGeneric(p, at+".reservations")
	pl := s.Placement
	if pl == nil {
		return
	}
	here := at + ".placement"
	p.atMost(here+".preferences", len(pl.Spread), MaxSpread, "preferences")
	for i, k := range pl.Spread {
		if err := checkNodeKey(k); err != nil {
			p.add(fmt.Sprintf("%s.preferences[%d]", here, i), "%v", err)
		}
		if slices.Contains(pl.Spread[:i], k) {
			p.add(fmt.Sprintf("%s.preferences[%d]", here, i), "%s is there twice; remove one", quoteIfOdd(k))
		}
	}
	if pl.MaxPerNode < 0 || pl.MaxPerNode > MaxReplicas {
		p.add(here+".max_replicas_per_node", "%d is not within 0 and %d; 0 is no bound", pl.MaxPerNode, MaxReplicas)
	}
	if s.Mode.PerNode() && pl.MaxPerNode > 0 {
		p.add(here+".max_replicas_per_node", "a global service has one task on every node; remove it")
	}
	here = at + ".x-placement"
	p.atMost(here+".prefer", len(pl.Prefer), MaxPrefer, "preferences")
	for i, f := range pl.Prefer {
		if err := f.check(); err != nil {
			p.add(fmt.Sprintf("%s.prefer[%d]", here, i), "%v", err)
		}
		if f.Weight == 0 || f.Weight < -MaxWeight || f.Weight > MaxWeight {
			p.add(fmt.Sprintf("%s.prefer[%d].weight", here, i), "%d is not within -%d and %d, or is 0", f.Weight, MaxWeight, MaxWeight)
		}
	}
	p.atMost(here, len(pl.Peers), MaxPeers, "services to be with or apart from")
	for _, r := range pl.Peers {
		s.validatePeer(p, here, spec, r)
	}
}

func (s *Service) validatePeer(p *problems, at string, spec *Spec, r Peer) {
	at += ".with"
	if r.Apart {
		at = strings.TrimSuffix(at, "with") + "apart"
	}
	jobName, name, other := strings.Cut(r.Service, "/")
	switch {
	case other && (!ValidName(jobName) || !ValidName(name)):
		p.add(at, "%q is not a service; write SERVICE, or JOB/SERVICE for one of another job", shorten(r.Service))
	case !other && spec.Service(r.Service) == nil:
		p.add(at, "service %q is not in the job; write JOB/SERVICE for one of another job", shorten(r.Service))
	case r.Service == s.Name && !r.Apart:
		p.add(at, "the service cannot ask to be with itself; prefer nodes by a label instead")
	case r.Service == s.Name && r.By == "" && r.Weight > 0:
		p.add(at, "tasks of one service are apart where they can anyway; remove it")
	}
	if r.By != "" {
		if err := checkNodeKey(r.By); err != nil {
			p.add(at, "by: %v", err)
		}
	}
	if r.Weight < 0 || r.Weight > MaxWeight {
		p.add(at, "a weight of %d is not within 1 and %d; leave it out for a must", r.Weight, MaxWeight)
	}
}

func (s *Service) validateGeneric(p *problems, at string) {
	p.atMost(at+".generic_resources", len(s.Generic), MaxGeneric, "kinds")
	for _, g := range s.Generic {
		if !validKind(g.Kind) {
			p.add(at+".generic_resources", "%q is not a resource's name; use letters, digits, _ . and -", shorten(g.Kind))
		}
		if g.Count < 1 || g.Count > MaxGenericCount {
			p.add(at+".generic_resources", "%d of %s are not within 1 and %d", g.Count, quoteIfOdd(g.Kind), MaxGenericCount)
		}
	}
}
