package nodetest

import "testing"

// Seeds that failed once, each for the reason beside it. A seed fixes the script but not the run (see sim): the tests that
// show each fault for sure stand beside the code that was at fault.

// A pipeline of raft hung for ever, and a term's end ended the agent.
func TestSeed11(t *testing.T) { slowSeed(t, 11) }

// A drained task waited for a dependency that had come short.
func TestSeed208(t *testing.T) { seed(t, 208) }

// An update of a service that is larger than the cluster never began.
func TestSeed222(t *testing.T) { seed(t, 222) }

// A machine that came anew at its old address voted for the node that it had been, and two nodes led.
func TestSeed1018(t *testing.T) { slowSeed(t, 1018) }

// A late heartbeat of a dead leader kept a candidate from voting for the only node that could win.
func TestSeed1073(t *testing.T) { slowSeed(t, 1073) }

// A join held a lock, for which others waited without end, until there was a quorum.
func TestSeed1086(t *testing.T) { slowSeed(t, 1086) }

func slowSeed(t *testing.T, n uint64) {
	if !*simOld {
		t.Skip("only with -sim.old, as in make sim")
	}
	seed(t, n)
}

func seed(t *testing.T, n uint64) {
	if testing.Short() {
		t.Skip("short")
	}
	simulate(t, n, false)
}
