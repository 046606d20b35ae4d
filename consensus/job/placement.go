package job

import "slices"

// Placement says where a service's tasks may and had better be, beyond its Constraints; nil: anywhere. All of it belongs
// to the service's Digest.
type Placement struct {
	// Spread are node keys such as "node.labels.rack": tasks are divided evenly among the values of the first, within each
	// of them among those of the second, and so on. At most MaxSpread. A node without the label counts as one of value "".
	Spread []string `json:"spread,omitempty"`
	// MaxPerNode bounds the tasks of the service on one node; 0: no bound.
	MaxPerNode int `json:"maxPerNode,omitempty"`
	// Prefer are wishes; a node is the better the more of their weights it collects. Followed as long as there is room.
	Prefer []Preference `json:"prefer,omitempty"`
	// Peers are services to be with or apart from.
	Peers []Peer `json:"peers,omitempty"`
}

// Preference is a constraint that need not hold: a node that satisfies it gets Weight, from -100 to 100 and not 0.
type Preference struct {
	Constraint
	Weight int `json:"weight"`
}

// Peer is another service to be with or apart from.
type Peer struct {
	// Service is a service of the same job, or "job/service".
	Service string `json:"service"`
	Apart   bool   `json:"apart,omitempty"`
	// By is the node key within whose values to be together or apart, such as "node.labels.zone"; "": the node itself.
	By string `json:"by,omitempty"`
	// Weight is 0 for a must, else from 1 to 100: a wish.
	Weight int `json:"weight,omitempty"`
}

// Bounds of a Placement.
const (
	MaxSpread  = 4
	MaxPrefer  = 32
	MaxPeers   = 32
	MaxWeight  = 100
	MaxGeneric = 16 // kinds of resources of one service or node
)

// DefaultWeight is that of a wish for which no weight is given.
const DefaultWeight = 50

// Priorities. A task may take the room of one whose priority is lower by at least PriorityGap (Nomad's).
const (
	DefaultPriority = 50
	MaxPriority     = 100
	PriorityGap     = 10
)

// Strategy says which of equally good nodes gets a task.
type Strategy string

// Strategies. The zero value is the cluster's, which is Spread unless it was set.
const (
	StrategySpread  Strategy = "spread"  // the least loaded
	StrategyBinpack Strategy = "binpack" // the fullest that has room
)

// PriorityOf is the service's priority, from 0 to MaxPriority.
func (s *Service) PriorityOf() int {
	if s.Priority == nil {
		return DefaultPriority
	}
	return *s.Priority
}

// SpreadKeys lists the node keys over whose values the service is spread; nil for none.
func (s *Service) SpreadKeys() []string {
	if s.Placement == nil {
		return nil
	}
	return s.Placement.Spread
}

// MaxPerNode bounds the service's tasks on one node; 0: no bound.
func (s *Service) MaxPerNode() int {
	if s.Placement == nil {
		return 0
	}
	return s.Placement.MaxPerNode
}

// VolumeHome says that a node has data of a named volume that a slot used there.
type VolumeHome struct {
	Volume  string `json:"volume"`
	Node    NodeID `json:"node"`
	Job     string `json:"job"`
	Service string `json:"service"`
	Slot    int    `json:"slot"`
	Index   uint64 `json:"index"` // of its last placement
}

// NamedVolumes lists the full names of the named volumes that the service mounts, in the order of its mounts, each once.
func (s *Service) NamedVolumes() []string {
	var out []string
	for _, m := range s.Mounts {
		if m.Type == MountVolume && m.Source != "" && !slices.Contains(out, m.Source) {
			out = append(out, m.Source)
		}
	}
	return out
}
