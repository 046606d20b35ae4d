package image

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestFlightOutlivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flights[int]
		calls := 0
		work := func(ctx context.Context) (int, error) {
			calls++
			select {
			case <-time.After(time.Second):
				return 7, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := g.do(first, "k", work); !errors.Is(err, context.Canceled) {
				t.Errorf("first: %v", err)
			}
		})
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			if n, err := g.do(t.Context(), "k", work); n != 7 || err != nil {
				t.Errorf("second: %d, %v", n, err)
			}
		})
		time.Sleep(2 * time.Millisecond)
		cancel()
		wg.Wait()
		if calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
		// All gone: the work ends, and the next caller gets a new one.
		only, cancelOnly := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancelOnly()
		if _, err := g.do(only, "k", work); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("only: %v", err)
		}
		if n, err := g.do(t.Context(), "k", work); n != 7 || err != nil {
			t.Errorf("next: %d, %v", n, err)
		}
	})
}

func TestJoinedFlightThatFailsIsTriedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := flights[string]{ownErrors: true}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := g.do(t.Context(), "k", func(context.Context) (string, error) {
				time.Sleep(time.Second)
				return "", errors.New("my peer is dead")
			}); err == nil {
				t.Error("the first one's failure is lost")
			}
		})
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			got, err := g.do(t.Context(), "k", func(context.Context) (string, error) { return "mine", nil })
			if got != "mine" || err != nil {
				t.Errorf("second: %q, %v", got, err)
			}
		})
		wg.Wait()
	})
}
