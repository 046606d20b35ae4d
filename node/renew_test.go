package node

import (
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/reconciler"
)

// A leader that hangs, then another one that does, then an election, and still there is time for two tries before a lease ends.
func TestALeaseOutlivesRenewalsThatHang(t *testing.T) {
	const election = time.Second
	for _, lease := range []time.Duration{job.MinLease, 4 * time.Second, job.DefaultLease, time.Minute} {
		leased := []reconciler.Leased{{Lease: time.Hour}, {Lease: lease}}
		patience := patienceForRenewal(leased)
		if patience > renewPatience || patience < 500*time.Millisecond {
			t.Errorf("lease %v: a request may take %v", lease, patience)
		}
		between := min(maxRenewal, lease/renewFraction)
		if worst := between + 2*(patience+renewRetry); worst > lease-election/2 {
			t.Errorf("lease %v: after two requests that hang %v are gone", lease, worst)
		}
	}
}
