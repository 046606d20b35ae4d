package nodetest

import "testing"

// Seeds that failed once, each for the reason beside it. A seed fixes the script but not the run (see sim): the tests that
// show each fault for sure stand beside the code that was at fault.

// A pipeline of raft hung for ever, and a term's end ended the agent.
func TestSeed11(t *testing.T) { seed(t, 11) }

// A drained task waited for a dependency that had come short.
func TestSeed208(t *testing.T) { seed(t, 208) }

// An update of a service that is larger than the cluster never began.
func TestSeed222(t *testing.T) { seed(t, 222) }

func seed(t *testing.T, n uint64) {
	if testing.Short() {
		t.Skip("short")
	}
	simulate(t, n)
}
