// Package frugal holds what reads outside input to a budget: 64 MiB allocated and one second of the processor for one
// input, and an end. It knows nothing of what is read.
package frugal

import (
	"fmt"
	goruntime "runtime"
	"runtime/metrics"
	"syscall"
	"testing"
	"time"
)

const (
	// MaxBytes may be allocated for one input, all in all: what is freed again counts too.
	MaxBytes = 64 << 20
	// MaxCPU is of the whole process, so that goroutines count too, and no wall time: a busy machine is no fault of ours.
	MaxCPU = time.Second
	// maxWait bounds what waits without computing; that is wall time, and generous for it.
	maxWait = 2 * time.Minute
	look    = 10 * time.Second
)

// Watch begins to measure; what it returns says whether the budget was kept. Nothing else may run in the process
// meanwhile. What never ends is a panic, with all goroutines, so that a fuzzer keeps the input. Use: defer frugal.Watch(t)()
func Watch(t testing.TB) func() { return budget{MaxBytes, MaxCPU, maxWait, look}.watch(t) }

type budget struct {
	bytes     uint64
	cpu       time.Duration
	wait, tic time.Duration
}

func (b budget) watch(t testing.TB) func() {
	begun, bytes, cpu := time.Now(), allocated(), used()
	ended := make(chan struct{})
	timer := time.AfterFunc(b.tic, func() { b.guard(begun, cpu, ended) })
	return func() {
		timer.Stop()
		close(ended)
		if n := allocated() - bytes; n > b.bytes {
			t.Errorf("allocated %d bytes for one input, at most %d", n, b.bytes)
		}
		if d := used() - cpu; d > b.cpu {
			t.Errorf("took %v of the processor for one input, at most %v", d, b.cpu)
		}
	}
}

// guard ends a process that goes on with one input.
func (b budget) guard(begun time.Time, cpu time.Duration, ended chan struct{}) {
	for {
		if why := b.broken(time.Since(begun), used()-cpu); why != "" {
			stacks := make([]byte, 1<<20)
			panic(why + "\n\n" + string(stacks[:goruntime.Stack(stacks, true)]))
		}
		select {
		case <-ended:
			return
		case <-time.After(b.tic):
		}
	}
}

func (b budget) broken(wall, cpu time.Duration) string {
	switch {
	case cpu > b.cpu:
		return fmt.Sprintf("took %v of the processor for one input, and goes on", cpu)
	case wall > b.wait:
		return fmt.Sprintf("has waited for %v with one input, and goes on", wall)
	}
	return ""
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// used is the processor time of the process.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("getrusage: %v", err)) // it has no reason to fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
