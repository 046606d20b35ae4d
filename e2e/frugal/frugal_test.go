package frugal

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// complaints is a test that only remembers what was complained about.
type complaints struct {
	testing.TB
	said []string
}

func (c *complaints) Errorf(format string, args ...any) {
	c.said = append(c.said, fmt.Sprintf(format, args...))
}

var sink []byte

func TestWasteIsSeen(t *testing.T) {
	small := budget{bytes: 1 << 20, cpu: 20 * time.Millisecond, wait: time.Hour, tic: time.Hour}
	for name, c := range map[string]struct {
		do   func()
		want string
	}{
		"modest":    {func() { sink = make([]byte, 1000) }, ""},
		"one large": {func() { sink = make([]byte, 2<<20) }, "allocated"},
		"many small": {func() {
			for range 3000 {
				sink = make([]byte, 1<<10)
			}
		}, "allocated"},
		"waits only":    {func() { time.Sleep(50 * time.Millisecond) }, ""},
		"computes":      {func() { compute(60 * time.Millisecond) }, "processor"},
		"in goroutines": {func() { done := make(chan bool); go func() { compute(60 * time.Millisecond); close(done) }(); <-done }, "processor"},
	} {
		var got complaints
		check := small.watch(&got)
		c.do()
		check()
		if all := strings.Join(got.said, "; "); (c.want == "") != (all == "") || !strings.Contains(all, c.want) {
			t.Errorf("%s: %q, want %q", name, all, c.want)
		}
	}
}

// compute uses the processor for so long.
func compute(d time.Duration) {
	for begun := used(); used()-begun < d; {
	}
}

func TestWhatDoesNotEndIsSeen(t *testing.T) {
	b := budget{cpu: time.Second, wait: time.Minute}
	for _, c := range []struct {
		wall, cpu time.Duration
		want      string
	}{{time.Second, time.Second, ""}, {2 * time.Second, 1100 * time.Millisecond, "took 1.1s of the processor"}, {2 * time.Minute, 0, "has waited for 2m0s"}} {
		if got := b.broken(c.wall, c.cpu); (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%v, %v: %q, want %q", c.wall, c.cpu, got, c.want)
		}
	}
}
