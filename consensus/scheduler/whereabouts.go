package scheduler

import "shoal/consensus/job"

// whereabouts is what the choice of a node needs to know of other tasks than the one to be placed.
type whereabouts struct {
	linked map[serviceRef][]*service             // those that name a service as a peer or share its nodes
	homes  map[string]map[homeID]*job.VolumeHome // of data, by volume
	images map[string]map[*node]int              // nodes whose tasks had the image
	seats  map[*slot]*node                       // of placements of the plan in the making

	following map[*service]struct{} // services that follow others
	kept      map[*slot]promise     // of the plan in the making, for followers to come

	promises []promise             // of the plan in the making
	promised map[*service]struct{} // services for which room was being made in their last plan
}

func newWhereabouts() whereabouts {
	return whereabouts{
		linked: map[serviceRef][]*service{}, homes: map[string]map[homeID]*job.VolumeHome{},
		images: map[string]map[*node]int{}, seats: map[*slot]*node{}, promised: map[*service]struct{}{},
		following: map[*service]struct{}{}, kept: map[*slot]promise{},
	}
}
