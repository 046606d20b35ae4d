package machines

import (
	"os/exec"
	goruntime "runtime"
	"testing"
	"time"
)

// What was started lives on when the thread of the one who asked for it ends; it once took agents with it at random.
func TestProcessesOutliveTheThreadThatAskedForThem(t *testing.T) {
	var started []*process
	for range 8 {
		done := make(chan error, 1)
		go func() {
			goruntime.LockOSThread() // and never unlocked: the thread ends here
			p, err := startApart(exec.Command("sleep", "60"), false)
			started = append(started, p)
			done <- err
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond) // for the threads to end
	for _, p := range started {
		if !p.alive() {
			t.Error("a process died with the thread that asked for it")
		}
		_ = p.kill()
	}
}
