package container

import (
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// onLastThread runs f on a thread that ends with it, so that f may enter namespaces that it cannot leave. It is never the
// main thread: the Go runtime does not end that one but parks it for ever, and its namespaces are what /proc/self shows
// and what libraries ask for.
func onLastThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		goruntime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer goruntime.UnlockOSThread()
			onLastThread(f) // on another one, for as long as this is held
			return
		}
		f() // and never unlocked
	}()
	<-done
}
