package network

import (
	"fmt"
	goruntime "runtime"

	"github.com/vishvananda/netns"
)

// home is the network namespace that a Network was made in and stays in. In an agent that is the process's own, and do
// is a plain call; only a test that keeps several machines in one process pays for a thread.
type home struct {
	ns netns.NsHandle
	// foreign is true if the process's main thread lives elsewhere.
	foreign bool
}

// openHome remembers the calling thread's network namespace.
func openHome() (home, error) {
	ns, err := netns.Get()
	if err != nil {
		return home{}, fmt.Errorf("open own network namespace: %w", err)
	}
	process, err := netns.GetFromPath("/proc/self/ns/net")
	if err != nil {
		ns.Close()
		return home{}, fmt.Errorf("open the process's network namespace: %w", err)
	}
	defer process.Close()
	return home{ns: ns, foreign: !ns.Equal(process)}, nil
}

// do runs f in the namespace. Sockets made by f stay in it.
func (h home) do(f func() error) error {
	if !h.foreign {
		return f()
	}
	return inNetNS(h.ns, f)
}

// inNetNS runs f on a thread inside ns. Sockets that f makes stay inside; the thread does not.
func inNetNS(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// newNetNS makes an empty network namespace. It ends when the handle is closed, unless something else keeps it.
func newNetNS() (ns netns.NsHandle, err error) {
	ns = netns.None()
	err = onThread(func() error {
		if ns, err = netns.New(); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		return nil
	})
	return ns, err
}

// onThread runs f, which may change the thread's network namespace, on a thread of its own and then brings the thread
// back. One that cannot be brought back stays locked, and the Go runtime ends it with the goroutine instead of giving it
// to somebody else.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		back, err := netns.Get()
		if err != nil {
			goruntime.UnlockOSThread()
			done <- fmt.Errorf("open the thread's network namespace: %w", err)
			return
		}
		defer back.Close()
		err = f()
		if netns.Set(back) == nil {
			goruntime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
