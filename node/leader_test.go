package node

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
)

func TestAPlannerThatFallsOverIsAnError(t *testing.T) {
	plain := errors.New("no quorum")
	if err := survive(func() error { return plain }, nil); err != plain {
		t.Errorf("an error came back as %v", err)
	}
	var none map[string]int
	fall := func() error { none["x"] = 1; return nil }
	if err := survive(fall, nil); err == nil || !strings.Contains(err.Error(), "nil map") || !strings.Contains(err.Error(), "leader_test.go") {
		t.Errorf("a panic became %v, want an error with its place", err)
	}
	var told any
	if err := survive(fall, func(p any) { told = p }); err != nil || told == nil {
		t.Errorf("a test was told of %v, error %v", told, err)
	}
}

// What ends a term runs on a goroutine of its own, perhaps not before the next term has begun: that one stays.
func TestTheEndOfATermIsNotTheNextOnes(t *testing.T) {
	n := &Node{}
	for term := range uint64(20_000) {
		ctx, cancel := context.WithCancel(t.Context())
		over := n.catchUp(ctx, term)
		cancel()
		over()
		over = n.catchUp(t.Context(), term)
		runtime.Gosched()
		if n.caughtUp.Load() == nil {
			t.Fatalf("term %d ended with the one before", term)
		}
		over()
	}
	if n.caughtUp.Load() != nil {
		t.Error("it leads for ever")
	}
}
