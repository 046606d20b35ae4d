package scheduler

import (
	"strings"

	"shoal/consensus/job"
)

// rules are what a service asks of nodes beyond constraints and room, made ready for the slots of one plan.
type rules struct {
	most   int // tasks of the service on one node; 0: no bound
	prefer []preference
	peers  []peerRule
}

type preference struct {
	job.Matcher
	weight int
}

// peerRule is that tasks of one service are to be with, or apart from, those of another.
type peerRule struct {
	job.Peer
	name string // of the other, as people know it from here
	self bool
	// there counts the other's tasks by what their nodes say under By; absent for By "", where count does.
	there map[string]int
	count map[job.NodeID]int
	// theirs: the other asked for it, so it is about where this one would disturb.
	theirs bool
}

// newRules reads the rules of a service and those that others have about it.
func (p *Planner) newRules(s *service) (r rules) {
	if s.spec == nil {
		return r
	}
	r.most = s.spec.MaxPerNode()
	if pl := s.spec.Placement; pl != nil {
		for _, f := range pl.Prefer {
			if m, err := f.Compile(); err == nil {
				r.prefer = append(r.prefer, preference{m, f.Weight})
			}
		}
		for _, peer := range pl.Peers {
			r.peers = append(r.peers, p.peerRule(s, p.peerOf(s, peer), peer, false))
		}
	}
	// A hard or soft wish to be apart holds in both directions: else the order of submits would decide.
	for _, o := range p.linked[serviceRef{s.job.name, s.name}] {
		if o == s || o.spec == nil || o.spec.Placement == nil {
			continue
		}
		for _, peer := range o.spec.Placement.Peers {
			if peer.Apart && p.peerOf(o, peer) == s {
				r.peers = append(r.peers, p.peerRule(s, o, peer, true))
			}
		}
	}
	return r
}

func (p *Planner) peerRule(s, o *service, peer job.Peer, theirs bool) peerRule {
	rule := peerRule{Peer: peer, name: peer.Service, self: o == s, theirs: theirs}
	if theirs {
		if rule.name = o.name; o.job != s.job {
			rule.name = o.job.name + "/" + o.name
		}
	}
	if o == nil {
		return rule
	}
	rule.count = o.count
	if peer.By != "" {
		rule.there = map[string]int{}
		for id, k := range o.count {
			n := p.nodes[id]
			switch {
			case n == nil:
				continue
			case n.n.State != job.NodeReady && peer.Apart:
				k = n.held(o)
			case n.n.State != job.NodeReady:
				k = 0
			}
			if k > 0 {
				v, _ := n.n.Value(peer.By)
				rule.there[v] += k
			}
		}
	}
	return rule
}

// held counts a service's tasks on a node that is not there that may not be given up yet. The others keep nothing apart:
// else what takes their place could not be in the same zone.
func (n *node) held(s *service) (k int) {
	for t := range n.tasks {
		if t.svc == s && !t.ended() && t.Held() {
			k++
		}
	}
	return k
}

// serviceRef names a service of a job.
type serviceRef struct{ job, service string }

func refOf(s *service, peer job.Peer) serviceRef {
	if j, name, ok := strings.Cut(peer.Service, "/"); ok {
		return serviceRef{j, name}
	}
	return serviceRef{s.job.name, peer.Service}
}

// peerOf finds the service that a peer of s names, nil if there is none now.
func (p *Planner) peerOf(s *service, peer job.Peer) *service {
	ref := refOf(s, peer)
	if j := p.jobs[ref.job]; j != nil {
		return j.services[ref.service]
	}
	return nil
}

// link keeps linked for a service whose spec changed from was.
func (p *Planner) link(s *service, was, is *job.Service) {
	for _, ref := range refsOf(s, was) {
		p.linked[ref] = without(p.linked[ref], s)
		if len(p.linked[ref]) == 0 {
			delete(p.linked, ref)
		}
	}
	for _, ref := range refsOf(s, is) {
		p.linked[ref] = append(p.linked[ref], s)
	}
}

// refsOf lists the services that a spec names as peers or partners, each once.
func refsOf(s *service, spec *job.Service) (out []serviceRef) {
	add := func(ref serviceRef) {
		for _, o := range out {
			if o == ref {
				return
			}
		}
		out = append(out, ref)
	}
	if spec == nil {
		return nil
	}
	for _, name := range spec.Together() {
		add(serviceRef{s.job.name, name})
	}
	if spec.Placement != nil {
		for _, peer := range spec.Placement.Peers {
			add(refOf(s, peer))
		}
	}
	return out
}

func without(list []*service, s *service) (out []*service) {
	for _, o := range list {
		if o != s {
			out = append(out, o)
		}
	}
	return out
}

// wakeLinked has those looked at that wait for a service's tasks to be somewhere, or for room that was kept for a follower
// which such a task may keep from coming.
func (p *Planner) wakeLinked(s *service) {
	for _, o := range p.linked[serviceRef{s.job.name, s.name}] {
		if _, waits := p.starved[o]; waits {
			p.mark(o)
		}
		p.freed = p.freed || p.toFollow(o)
	}
	if s.spec != nil && s.spec.Placement != nil {
		for _, peer := range s.spec.Placement.Peers {
			p.freed = p.freed || peer.Apart && p.toFollow(p.peerOf(s, peer))
		}
	}
}

// waitsFor tells whether a service is better looked at after others of the same plan, because it must be where they are.
func (s *service) waitsFor() bool {
	if s.spec == nil {
		return false
	}
	if len(s.together) > 0 {
		return true
	}
	if s.spec.Placement != nil {
		for _, peer := range s.spec.Placement.Peers {
			if !peer.Apart && peer.Weight == 0 {
				return true
			}
		}
	}
	return false
}

// near counts the other's tasks where a node is.
func (r *peerRule) near(n *node) int {
	if r.By == "" {
		return r.count[n.n.ID]
	}
	v, _ := n.n.Value(r.By)
	return r.there[v]
}

// holds tells whether a must is kept on a node; a wish always is.
func (r *peerRule) holds(n *node) bool {
	return r.Weight > 0 || r.near(n) > 0 != r.Apart
}

// breaks is the first must that does not hold on a node, nil if all do.
func (r *rules) breaks(n *node) *peerRule {
	for i := range r.peers {
		if rule := &r.peers[i]; !rule.holds(n) {
			return rule
		}
	}
	return nil
}

// breaks is the first must of a service that does not hold on a node, nil if all do.
func (p *Planner) breaks(s *service, n *node) *peerRule {
	r := p.newRules(s)
	return r.breaks(n)
}

// bars tells whether a must of a service that is to come keeps it from a node. One that it is to be with and that has no task
// yet may still come there.
func (r *rules) bars(n *node) bool {
	for i := range r.peers {
		if rule := &r.peers[i]; !rule.holds(n) && (rule.Apart || rule.count == nil || len(rule.count) > 0) {
			return true
		}
	}
	return false
}

// foe is the first must to be apart that does not hold on a node, nil if all do.
func (r *rules) foe(n *node) *peerRule {
	for i := range r.peers {
		if rule := &r.peers[i]; rule.Apart && !rule.holds(n) {
			return rule
		}
	}
	return nil
}

// wish is the sum of the weights of wishes that a node does not meet, less those that it does: the less the better.
func (r *rules) wish(n *node) (sum int) {
	sum = r.preference(n)
	for i := range r.peers {
		rule := &r.peers[i]
		if rule.Weight == 0 || rule.near(n) == 0 {
			continue
		}
		if rule.Apart {
			sum += rule.Weight
		} else {
			sum -= rule.Weight
		}
	}
	return sum
}

// preference is the part of wish that is about the node itself, and not about others, who may move.
func (r *rules) preference(n *node) (sum int) {
	for i := range r.prefer {
		if r.prefer[i].Holds(n.n) {
			sum -= r.prefer[i].weight
		}
	}
	return sum
}

// wishes tells whether any node can be better than another by wish.
func (r *rules) wishes() bool {
	if len(r.prefer) > 0 {
		return true
	}
	for i := range r.peers {
		if r.peers[i].Weight > 0 {
			return true
		}
	}
	return false
}

// took counts a task of the service that the plan in the making places on a node.
func (r *rules) took(n *node) {
	for i := range r.peers {
		if rule := &r.peers[i]; rule.self && rule.By != "" {
			v, _ := n.n.Value(rule.By)
			rule.there[v]++
		}
	}
}
