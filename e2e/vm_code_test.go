package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal/e2e/machines"
)

// TestVMCodeChanges: a machine's kernel changes its own code while both processors run it (static keys), as it does
// whenever something is used for the first time. An emulator that overlooks such a change makes the machine hang.
func TestVMCodeChanges(t *testing.T) {
	n := vmNetwork(t)
	m, err := n.Add(machines.MachineOptions{})
	must(t, err)
	must(t, m.PowerOn())
	ctx, cancel := context.WithTimeout(t.Context(), n.Patience(time.Minute))
	defer cancel()
	out := make(chan string, 1)
	go func() {
		b, err := m.Command("bash", "-ec", `
for k in 1 2 3; do (while :; do /bin/true; done) & done
for k in {1..400}; do echo 1 >/proc/sys/kernel/sched_schedstats; echo 0 >/proc/sys/kernel/sched_schedstats; done
kill $(jobs -p)
echo well`).CombinedOutput()
		out <- fmt.Sprint(string(b), err)
	}()
	select {
	case said := <-out:
		if !strings.HasSuffix(said, "well\n<nil>") {
			t.Errorf("it hung, or said %s", said)
		}
	case <-ctx.Done():
		t.Error("it hangs")
		must(t, m.PowerOff())
		<-out
	}
}
