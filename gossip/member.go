package gossip

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/memberlist"
)

// State is what the pool thinks of a member.
type State uint8

// The states of a member.
const (
	// Alive: it answers its peers' probes, or nobody has tried yet.
	Alive State = iota + 1
	// Suspect: somebody could not reach it; it has a short time to refute.
	Suspect
	// Dead: it did not refute. It stays in Members until Forget or until it comes back.
	Dead
	// Left: it said goodbye. It stays in Members until Forget or until it comes back.
	Left
)

// String returns the state in lower case, as people read it.
func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Suspect:
		return "suspect"
	case Dead:
		return "dead"
	case Left:
		return "left"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText writes the state as String does.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// here tells whether a member in this state is still counted on.
func (s State) here() bool { return s == Alive || s == Suspect }

// Member is one node as gossip sees it. It is a copy and belongs to whoever received it.
type Member struct {
	ID    string         `json:"id"`
	Name  string         `json:"name"`
	Addr  netip.AddrPort `json:"addr"`
	State State          `json:"state"`
	// Since is when this node learnt of the state, by its own wall clock.
	Since time.Time `json:"since"`
	Meta  Meta      `json:"meta"`
}

// Meta is what a member tells about itself to all others. Encoded it must stay below 512 bytes.
type Meta struct {
	Name string `cbor:"1,keyasint,omitempty" json:"name"`
	// Voter is "auto" or "never".
	Voter string `cbor:"2,keyasint,omitempty" json:"voter,omitempty"`
	// Zone is the failure zone, free text; empty means none.
	Zone string `cbor:"3,keyasint,omitempty" json:"zone,omitempty"`
	// API is the highest version of the API that the node speaks.
	API uint32 `cbor:"4,keyasint,omitempty" json:"api,omitempty"`
}

// encode returns m as bytes that memberlist carries, or an error when they are too many.
func (m Meta) encode() ([]byte, error) {
	b, err := cbor.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode node metadata: %w", err)
	}
	if len(b) >= memberlist.MetaMaxSize {
		return nil, fmt.Errorf("node metadata has %d bytes, the limit is %d: shorten the node's name or zone", len(b), memberlist.MetaMaxSize-1)
	}
	return b, nil
}

// decodeMeta reads what encode wrote. Fields of newer versions are ignored.
func decodeMeta(b []byte) (Meta, error) {
	var m Meta
	if len(b) == 0 {
		return m, nil
	}
	if err := cbor.Unmarshal(b, &m); err != nil {
		return Meta{}, fmt.Errorf("decode node metadata: %w", err)
	}
	return m, nil
}
