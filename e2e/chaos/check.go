package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"shoal/e2e/machines"
	"shoal/node/api"
)

// checker judges, after every fault and at the end.
type checker struct {
	w        *World
	load     *load
	violated func(promise, what string)
	after    string // the faults just before, for people
	dir      string // of the evidence

	silent time.Duration // the longest time without an acknowledged write since the last look
	leases int           // fenced containers that ended because nobody could renew their lease

	held   account // by the machines before anything ran
	record recordReader
	lines  *lineReader
	runs   *runReader

	histories, operations, undecided int
	compared, rounds                 int
}

func newChecker(w *World, l *load, held account, dir string, violated func(promise, what string)) *checker {
	return &checker{w: w, load: l, violated: violated, held: held, dir: dir, runs: &runReader{w: w}, lines: newLineReader(w), record: recordReader{path: w.recordPath()}}
}

// moment is what was before a fault.
type moment struct {
	live []container
}

func (c *checker) before() *moment { return &moment{census(c.w.Machines())} }

// now judges after a fault, when all runs again.
func (c *checker) now(ctx context.Context, before *moment, allows []Allowance) {
	c.rounds++
	c.untouched(ctx, before, allows)
	c.oneWriter()
	c.equalStates(ctx)
	c.linearizable()
	for _, a := range allows {
		c.lines.allow(a)
	}
	for _, wrong := range c.lines.read(ctx) {
		c.violated("numbered log lines are without gap, or the gap is reported", wrong)
	}
	c.batches(ctx)
}

// last judges at the end, when no client asks any more.
func (c *checker) last(ctx context.Context) {
	c.after = "the end"
	begun := time.Now()
	c.linearizable()
	c.w.Log("the last histories were judged in %v", time.Since(begun).Round(100*time.Millisecond))
	c.oneWriter()
	c.equalStates(ctx)
	for _, wrong := range c.lines.read(ctx) {
		c.violated("numbered log lines are without gap, or the gap is reported", wrong)
	}
	c.batches(ctx)
	if err := c.w.emptied(ctx); err != nil {
		c.violated("what was removed ends", err.Error())
		return
	}
	more, err := c.w.balanced(ctx, c.held)
	if err != nil {
		c.violated("the cluster answers", err.Error())
	}
	for _, m := range more {
		c.violated("nothing is left behind on a machine", m)
	}
}

// batches: a run that was begun completes.
func (c *checker) batches(ctx context.Context) {
	if wrong := c.runs.next(ctx); wrong != "" {
		c.violated("a run of a batch completes", wrong)
	}
}

// untouched: a container ends only when that was asked for or allowed.
func (c *checker) untouched(ctx context.Context, before *moment, allows []Allowance) {
	inLog, err := c.w.desired(ctx)
	if err != nil {
		c.violated("the cluster answers", err.Error())
		return
	}
	silent := c.silent
	c.silent = 0
	services := slices.DeleteFunc(slices.Clone(before.live), func(k container) bool { return !isService(k.Job) })
	may := func(k container) licence {
		if k.Job == jobFenced && silent > leaseUnrenewed {
			c.leases++
			return mayEnd
		}
		return mayHappen(k, allows)
	}
	for _, wrong := range touched(services, census(c.w.Machines()), inLog, may) {
		c.violated("no container is touched but by what must touch it", wrong)
	}
}

// leaseUnrenewed is for how long nobody need have led for a lease to run out: it is renewed every fifth of its time, and what
// the renewal and a new leader take comes off.
const leaseUnrenewed = fencedLease / 2

// mayHappen is what the faults allow to happen to a container.
func mayHappen(k container, allows []Allowance) licence {
	on := func(ms []*machines.Machine) bool {
		return slices.ContainsFunc(ms, func(m *machines.Machine) bool { return m.Name == k.Machine })
	}
	l := mayNothing
	for _, a := range allows {
		switch {
		case on(a.Restarts) || on(a.Gone):
			return mayEnd
		case on(a.Moves) || a.MovesAll:
			l = mayMove
			if k.Job == jobFenced {
				return mayEnd // its lease may have run out before its node was called down
			}
		}
	}
	return l
}

// oneWriter: the record shows that fenced writers never wrote beside each other.
func (c *checker) oneWriter() {
	for _, wrong := range c.record.read() {
		c.violated("a slot of a fenced service never has two live containers", wrong)
	}
	writers := map[string]bool{}
	for _, k := range census(c.w.Machines()) {
		if k.Job == jobFenced {
			writers[k.Task] = true
		}
	}
	if len(writers) > 1 {
		c.violated("a slot of a fenced service never has two live containers", fmt.Sprintf("the kernel shows %d", len(writers)))
	}
}

// equalStates: log-holders have equal state at equal index.
func (c *checker) equalStates(ctx context.Context) {
	for range 3 {
		hashes := c.hashes(ctx)
		if wrong := differing(hashes); wrong != "" {
			c.violated("log-holders have equal state at equal index", wrong)
			return
		}
		if n := mostEqual(hashes); n > 1 {
			c.compared += n
			return
		}
	}
}

// hashes asks all machines for the hash of their state a little ahead of where they are.
func (c *checker) hashes(ctx context.Context) map[string]api.StateHash {
	var at uint64
	for _, m := range c.w.Machines() {
		if s, err := c.w.status(m); err == nil && s.LogHolder {
			at = max(at, s.Index)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]api.StateHash{}
	for _, m := range c.w.Machines() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			cl := m.Client()
			defer cl.Close()
			h, err := cl.StateHash(ctx, at+10, time.Second)
			if err != nil {
				return // it holds no log, or was too late
			}
			mu.Lock()
			defer mu.Unlock()
			out[m.Name] = h
		})
	}
	wg.Wait()
	return out
}

// differing tells who has another state at the same index.
func differing(hashes map[string]api.StateHash) string {
	first := map[uint64]string{}
	for name, h := range hashes {
		other, seen := first[h.Index]
		if !seen {
			first[h.Index] = name
			continue
		}
		if o := hashes[other]; o.Hash != h.Hash {
			var tables []string
			for t, sum := range h.Tables {
				if o.Tables[t] != sum {
					tables = append(tables, t)
				}
			}
			slices.Sort(tables)
			return fmt.Sprintf("%s and %s at index %d differ in %s", other, name, h.Index, strings.Join(tables, ", "))
		}
	}
	return ""
}

func mostEqual(hashes map[string]api.StateHash) (most int) {
	count := map[uint64]int{}
	for _, h := range hashes {
		count[h.Index]++
		most = max(most, count[h.Index])
	}
	return most
}

// linearizable checks the histories that are complete.
func (c *checker) linearizable() {
	for _, h := range c.load.takeRetired() {
		wrong, undecided := h.check()
		c.histories++
		c.operations += len(h.ops)
		if undecided {
			c.undecided++
		}
		if len(wrong) == 0 {
			continue
		}
		path := filepath.Join(c.dir, "history-"+h.name+".txt")
		_ = os.WriteFile(path, []byte(h.text(wrong)), 0o644) // what is wrong is said all the same
		for _, x := range wrong {
			c.violated("every acknowledged change is there, and histories are linearizable", x+"; see "+path)
		}
	}
}

// blind tells what was never seen at all, so that its promise was not judged; "": everything was.
func (c *checker) blind() string {
	switch {
	case c.compared == 0:
		return "no two log-holders were ever seen at an equal index"
	case c.record.lines == 0:
		return "no fenced writer ever wrote"
	case c.histories == c.undecided:
		return "no history was judged"
	}
	return ""
}

// sums tell how much was judged.
func (c *checker) sums() []string {
	return []string{
		fmt.Sprintf("%d histories of jobs with %d operations are linearizable (%d more could not be decided in time)", c.histories-c.undecided, c.operations, c.undecided),
		fmt.Sprintf("%d times states of log-holders at an equal index, in %d rounds", c.compared, c.rounds),
		fmt.Sprintf("%d lines of %d fenced writers, one after the other; %d times no leader could be asked for so long that a lease of %v may end", c.record.lines, len(c.record.seen), c.leases, fencedLease),
		c.lines.sum(),
		fmt.Sprintf("%d runs of a batch completed", c.runs.completed),
	}
}
