package container

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// However many threads end in namespaces of their own, the main one is none of them.
func TestMainThreadNeverEnds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	main := func() string { link, _ := os.Readlink("/proc/self/ns/uts"); return link }
	before := main()
	var onMain, used atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 16 {
				onLastThread(func() {
					if used.Add(1); unix.Gettid() == unix.Getpid() {
						onMain.Add(1)
					}
					if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
	all.Wait()
	if onMain.Load() > 0 || used.Load() != 64*16 || main() != before {
		t.Errorf("%d of %d were on the main thread, whose namespace was %s and is %s", onMain.Load(), used.Load(), before, main())
	}
}
