package job

import (
	"net/netip"
	"time"
)

// Node is a machine that runs an agent.
type Node struct {
	ID     NodeID            `json:"id"`
	Name   string            `json:"name"` // unique among nodes that were not removed
	Addr   netip.AddrPort    `json:"addr"` // what the others dial
	Labels map[string]string `json:"labels,omitempty"`
	Voter  VoterPolicy       `json:"voter,omitempty"`
	// Capacity is the machine's resources less a reserve for itself.
	Capacity Resources    `json:"capacity"`
	Subnet   netip.Prefix `json:"subnet"` // of its containers; assigned by Apply from the cluster's pool
	Drained  bool         `json:"drained,omitempty"`
	// DrainBy is when what is left on a drained node is stopped, moved or not (the wall clock of who asked); zero: never.
	DrainBy time.Time `json:"drainBy,omitzero"`
	State   NodeState `json:"state"`
	// Since is when State began (the deciding leader's wall clock), and Reason why.
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason,omitempty"`
	Joined  time.Time `json:"joined"`
	Version string    `json:"version,omitempty"`
	// Rules is the highest level of rules by which the node's build can apply the log (state.Rules).
	Rules  int    `json:"rules,omitempty"`
	OS     string `json:"os,omitempty"`
	Arch   string `json:"arch,omitempty"`
	Kernel string `json:"kernel,omitempty"`
	// Attributes are what the node reports of its machine, beside the fields above: "cpu.count", "cgroup.version", …; at most
	// MaxAttributes. Constraints ask for them as node.attr.NAME.
	Attributes map[string]string `json:"attributes,omitempty"`
	// Generic are devices and other countable things that the node declares, sorted by kind; at most MaxGeneric.
	Generic []Generic `json:"generic,omitempty"`
	// Overcommit tells how much more than Capacity is given away; nil: not more. Admins' pen, and the agent's when it joins.
	Overcommit *Overcommit `json:"overcommit,omitempty"`
	// LogLife is "" unless the node's copy of the log was damaged once and begun anew (consensus.HolderID).
	LogLife string `json:"logLife,omitempty"`
	// KeyPin is the SHA-256 of the node's public key: with it a node whose certificate has expired is known again.
	KeyPin string `json:"keyPin,omitempty"`
}

// VoterPolicy says whether a node may hold the log.
type VoterPolicy string

// Voter policies; the zero value is VoterAuto.
const (
	VoterAuto  VoterPolicy = "auto"
	VoterNever VoterPolicy = "never"
)

// NodeState is the leader's decision about a node.
type NodeState string

// Node states.
const (
	NodeReady NodeState = "ready"
	NodeDown  NodeState = "down"
	NodeLeft  NodeState = "left" // went on purpose, with its tasks stopped; comes back by starting its agent
)

// Eligible tells whether new tasks may be placed on it.
func (n *Node) Eligible() bool { return n.State == NodeReady && !n.Drained }

// Token is a join token as the log keeps it: never the secret itself.
type Token struct {
	ID       string    `json:"id"`
	Verifier []byte    `json:"verifier"` // hash of the secret
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`           // zero: never
	MaxUses  int       `json:"maxUses,omitempty"` // 0: no limit
	Uses     int       `json:"uses,omitempty"`
}

// ImageName says which image a name means in the whole cluster, since somebody loaded one under it. A job that is
// submitted by that name runs that image on every node, and another one only when it is submitted again.
type ImageName struct {
	Name   string    `json:"name"`   // full: "docker.io/library/web:1"
	Digest string    `json:"digest"` // of the manifest: "sha256:…"
	Node   NodeID    `json:"node"`   // where it was loaded
	At     time.Time `json:"at"`
}

// Cluster is what all nodes agree on about the cluster itself.
type Cluster struct {
	ID      string       `json:"id"`
	Created time.Time    `json:"created"`
	Pool    netip.Prefix `json:"pool"` // addresses of all containers
	// SubnetBits is the size of a node's subnet (24).
	SubnetBits int    `json:"subnetBits"`
	CACert     []byte `json:"caCert"` // PEM
	// CAKey is the CA's private key, sealed under the cluster's sealing key, which is never in the log.
	CAKey []byte `json:"caKey"`
	// GossipKeys are sealed likewise; the first is primary.
	GossipKeys [][]byte `json:"gossipKeys,omitempty"`
	// Settings are what admins decided about the whole cluster, by name (see Settings); a name that is not there has its
	// default.
	Settings map[string]string `json:"settings,omitempty"`
	// Rules is the level of rules by which all nodes apply the log (state.Rules).
	Rules int `json:"rules,omitempty"`
}
