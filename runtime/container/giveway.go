package container

import (
	"context"
	"fmt"
	"time"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

var copyPatience = runtime.CopyPatience // tests are less patient

// giveWay ends a copy of a container that does not run, when somebody wants the container: how long a copy takes is up to
// its client, who may have gone to lunch. From then on the context's cause is an ErrConflict, and end, which is called once
// with it, must let go whoever waits for the client. over takes the watch away; end is not under way when it returns.
func (r *root) giveWay(ctx context.Context, id runtime.ID, end func(error)) (_ context.Context, over func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if r.wanted == nil {
		return ctx, func() { cancel(nil) }
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		patience := time.NewTimer(0)
		defer patience.Stop()
		for {
			select {
			case <-r.wanted:
			case <-done:
				return
			}
			patience.Reset(copyPatience)
			select {
			case <-patience.C:
			case <-done:
				return
			}
			select {
			case <-r.wanted:
				err := stage.WithKind(runtime.ErrConflict, fmt.Errorf(
					"container %s was to be started or removed, and the copy had not ended %s later; copy again", id, copyPatience))
				end(err)
				cancel(err)
				return
			default: // whoever waited has given up
			}
		}
	}()
	return ctx, func() {
		close(done)
		<-ended
		cancel(nil)
	}
}
