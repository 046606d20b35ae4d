package image

import (
	"context"
	"sync"
)

// flights runs one function a key at a time and gives its result to all who asked meanwhile. Unlike x/sync's singleflight
// it belongs to no caller: the work goes on while one of them waits, and ends when the last one has given up.
type flights[T any] struct {
	// ownErrors: whoever joined a flight that failed tries it himself, because his way (his peer, his registry) may be better.
	ownErrors bool

	mu     sync.Mutex
	flying map[string]*flight[T]
}

type flight[T any] struct {
	waiters int // guarded by flights.mu
	cancel  context.CancelFunc
	done    chan struct{}
	val     T // readable after done
	err     error
}

// do returns fn's result, of this call or of one in flight under the same key. fn's context carries the values of the
// first caller. The last caller to give up waits for fn to end.
func (g *flights[T]) do(ctx context.Context, key string, fn func(context.Context) (T, error)) (T, error) {
	if err := ctx.Err(); err != nil {
		var zero T
		return zero, err
	}
	g.mu.Lock()
	f, joined := g.flying[key], true
	if f == nil {
		joined = false
		fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight[T]{cancel: cancel, done: make(chan struct{})}
		if g.flying == nil {
			g.flying = map[string]*flight[T]{}
		}
		g.flying[key] = f
		go func() {
			defer close(f.done) // after forget: a newcomer, or one who tries again, finds no ended flight
			f.val, f.err = fn(fctx)
			cancel()
			g.forget(key, f)
		}()
	}
	f.waiters++
	g.mu.Unlock()

	select {
	case <-f.done:
		if joined && f.err != nil && g.ownErrors {
			return g.do(ctx, key, fn)
		}
		return f.val, f.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last && g.flying[key] == f {
		delete(g.flying, key) // a newcomer must not join what is being cancelled
	}
	g.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
	var zero T
	return zero, ctx.Err()
}

func (g *flights[T]) forget(key string, f *flight[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.flying[key] == f {
		delete(g.flying, key)
	}
}
