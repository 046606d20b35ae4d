package chaos

import (
	"context"
	goruntime "runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// busyEvery is how often the host is asked how busy it is, busyWork for how much of a processor each time.
	busyEvery = time.Second
	busyWork  = 5 * time.Millisecond
)

// measureBusy begins to measure how much longer work takes on this host than it would on an idle one: others may share it.
// What it returns ends that and gives the mean factor, at least 1. Limits are for a host that is ours alone.
func measureBusy(ctx context.Context) (factor func() float64) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	sum, n := 0.0, 0
	wg.Go(func() {
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		for ctx.Err() == nil {
			sum, n = sum+slowdown(), n+1
			_ = Sleep(ctx, busyEvery)
		}
	})
	return func() float64 {
		cancel()
		wg.Wait()
		if n == 0 {
			return 1
		}
		return max(1, sum/float64(n))
	}
}

// slowdown is how long some work of this thread took, by how long it was on a processor for it.
func slowdown() float64 {
	begun, used := time.Now(), threadTime()
	for threadTime()-used < busyWork {
	}
	return float64(time.Since(begun)) / float64(busyWork)
}

// threadTime is how long this thread was on a processor.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return time.Duration(time.Now().UnixNano()) // then it counts as idle
	}
	return time.Duration(t.Nano())
}
