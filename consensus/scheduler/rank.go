package scheduler

import (
	"shoal/consensus/job"
)

// rank says how good a node is for one more task of a service among the nodes of its leaf: the less the better, by the
// first field that differs. Within one plan a node's rank only grows, but for that of the node that a dense class fills.
type rank struct {
	bad   int     // the service's tasks keep failing there
	wish  int     // wishes that are not met
	count int     // tasks of the service
	load  float64 // how full, see picker.rank
	id    job.NodeID
}

func (a rank) less(b rank) bool {
	switch {
	case a.bad != b.bad:
		return a.bad < b.bad
	case a.wish != b.wish:
		return a.wish < b.wish
	case a.count != b.count:
		return a.count < b.count
	case a.load != b.load:
		return a.load < b.load
	}
	return a.id < b.id
}

// rank is the rank of a node as it is now.
func (k *picker) rank(n *node) rank {
	r := rank{bad: k.p.penalty(k.s, n), id: n.n.ID}
	if k.wishes {
		r.wish = k.rules.wish(n)
	}
	if !k.s.class.dense {
		r.count, r.load = k.s.count[n.n.ID], n.load
		if len(k.images) > 0 && k.images[n] == 0 {
			r.load += imageWorth
		}
		return r
	}
	// The fullest first; a node that is empty is opened only when no other has room, and then the one that holds most.
	if n.running > 0 {
		r.load = -1 - n.load
	} else {
		r.load = 1 / float64(1+n.room(k.ask))
	}
	return r
}
