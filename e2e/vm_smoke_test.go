package e2e

import (
	"testing"
	"time"

	"shoal/e2e/machines"
)

// TestVMSmoke: on three machines with kernels of their own a cluster forms, a job runs, and when one of them loses its
// power its work goes on elsewhere.
func TestVMSmoke(t *testing.T) {
	n := vmNetwork(t)
	began := time.Now()
	must(t, n.Form(3, machines.MachineOptions{}))
	t.Logf("three machines form a cluster after %v", time.Since(began).Round(100*time.Millisecond))
	all := n.Machines()
	loadBusybox(t, all[0])
	sleepers(t, all[0], "web", 3)
	settled(t, n, all[0], "web", 3)
	t.Logf("a job runs after %v", time.Since(began).Round(100*time.Millisecond))
	must(t, all[2].PowerOff())
	settled(t, n, all[0], "web", 3)
	t.Logf("and goes on without %s after %v", all[2].Name, time.Since(began).Round(100*time.Millisecond))
}
