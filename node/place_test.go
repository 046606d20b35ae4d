package node

import "testing"

// A node that moved must not take its own old address, in a copy of the log that is behind, for another machine's claim.
// Found by make chaos FAULTS=new-address, seed 2: two voters that exchanged their addresses both ended.
func TestOldAddressInALateFrameIsNoTakeover(t *testing.T) {
	type frame struct {
		here  bool
		index uint64
	}
	for _, test := range []struct {
		name   string
		frames []frame
		taken  bool // by the last
	}{
		{"not registered yet", []frame{{false, 5}, {false, 9}}, false},
		{"registered", []frame{{false, 5}, {true, 10}, {true, 12}}, false},
		{"its own copy is behind", []frame{{false, 5}, {true, 10}, {false, 7}, {false, 9}, {true, 10}}, false},
		{"still behind after the other's newest", []frame{{true, 10}, {true, 14}, {false, 9}}, false},
		{"a copy of its disk registered later", []frame{{true, 10}, {false, 11}}, true},
		{"the same after late frames", []frame{{true, 10}, {false, 9}, {false, 15}}, true},
	} {
		var p place
		for i, f := range test.frames {
			if got, want := p.taken(f.here, f.index), test.taken && i == len(test.frames)-1; got != want {
				t.Errorf("%s: frame %d: taken is %v, want %v", test.name, i, got, want)
			}
		}
	}
}
