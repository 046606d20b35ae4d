package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

const (
	// loadRate is how many operations a second are begun, loadFloor how many must come to an end, on average over the
	// seconds in which a write was acknowledged.
	loadRate  = 160
	loadFloor = 100
	// Floating clients ask any machine that is under no fault; each machine has a client of its own beside, that asks no
	// other.
	floatingClients = 20
	// jobSlots is how many jobs the clients change at a time.
	jobSlots = 12
	// A job's history ends after so many operations, or so many of which nobody knows whether they happened: each of
	// those doubles what a check may take. Then another job takes the slot.
	historyOps  = 300
	historyOpen = 6
	// tryFor is how long one try waits for its answer, opFor how long an operation with a key is tried.
	tryFor = 4 * time.Second
	opFor  = 20 * time.Second
)

// load is clients that change and read jobs, and what they saw.
type load struct {
	w      *World
	cancel context.CancelFunc
	wg     sync.WaitGroup
	tokens chan struct{}
	begun  time.Time

	mu      sync.Mutex
	slots   [jobSlots]*history
	gen     int
	retired []*history
	done    []time.Time // when operations came to a known end, in order
	acks    []time.Time // when writes were acknowledged, in order
	unknown int
	odd     map[string]int // answers that should not be
	ended   time.Time
}

// startLoad begins the load.
func startLoad(w *World) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{w: w, cancel: cancel, tokens: make(chan struct{}, floatingClients), begun: time.Now(), odd: map[string]int{}}
	for i := range l.slots {
		l.slots[i] = l.freshLocked()
	}
	l.wg.Go(func() {
		for t := time.NewTicker(time.Second / loadRate); ; {
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
			select {
			case l.tokens <- struct{}{}:
			default: // all clients wait for answers
			}
		}
	})
	for i := range floatingClients {
		l.wg.Go(func() { l.client(ctx, uint64(i), nil) })
	}
	for i, m := range w.Machines() {
		l.wg.Go(func() { l.client(ctx, uint64(100+i), m) })
	}
	return l
}

// stop ends the load and waits for its clients.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended.IsZero() {
		l.ended = time.Now()
		for _, h := range l.slots {
			l.retired = append(l.retired, h)
		}
	}
}

func (l *load) freshLocked() *history {
	l.gen++
	return &history{name: fmt.Sprintf("load-%d", l.gen)}
}

// client makes one operation after the other. A machine's own client asks no other one; nil: any.
func (l *load) client(ctx context.Context, id uint64, own *machines.Machine) {
	r := rand.New(rand.NewPCG(id, 3))
	conns, moves := map[*machines.Machine]*api.Client{}, map[*machines.Machine]int{}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	target := func() *api.Client {
		m := own
		if m == nil {
			free := l.w.Free()
			if len(free) == 0 {
				free = l.w.Machines()
			}
			m = free[r.IntN(len(free))]
		}
		if n := l.w.Moves(m); conns[m] == nil || moves[m] != n {
			if conns[m] != nil {
				conns[m].Close()
			}
			conns[m], moves[m] = m.Client(), n
		}
		return conns[m]
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.tokens:
		}
		slot := r.IntN(jobSlots)
		l.mu.Lock()
		h := l.slots[slot]
		h.flying++
		l.mu.Unlock()
		o := draw(r)
		o.client = int(id)
		l.do(ctx, target, h.name, &o)
		l.note(slot, h, o)
	}
}

// draw chooses an operation.
func draw(r *rand.Rand) operation {
	o := operation{in: input{replicas: r.IntN(4)}}
	switch k := r.IntN(100); {
	case k < 18:
		o.in.kind, o.in.label = opPut, api.NewKey()[:8]
	case k < 32:
		o.in.kind = opScale
	case k < 36:
		o.in.kind = opStop
	case k < 40:
		o.in.kind = opStart
	case k < 41:
		o.in.kind = opRemove
	case k < 80:
		o.in.kind = opRead
	default:
		o.in.kind = opLocal
	}
	return o
}

// do carries an operation out: one with a key is tried until its fate is known.
func (l *load) do(ctx context.Context, target func() *api.Client, name string, o *operation) {
	key := api.NewKey()
	o.call = time.Since(l.begun)
	end := time.Now().Add(opFor)
	for try := 0; ; try++ {
		// A try outlives the load's end: its fate is wanted.
		tctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryFor)
		// Whether anything was sent the error does not tell: net/http sends again what has a key when a connection breaks,
		// and then it is the error of that.
		var sent atomic.Bool
		tctx = httptrace.WithClientTrace(tctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
		err := o.send(tctx, target(), key, name)
		cancel()
		o.back = time.Since(l.begun)
		known := fate(err)
		o.out.unsent = !sent.Load() && !o.maybe
		if known {
			o.out.known, o.out.missing, o.retried = true, errors.Is(err, job.NotFound), o.maybe
			if err != nil && !o.out.missing {
				o.out.known, o.out.odd = false, err.Error()
			}
			return
		}
		o.maybe = o.maybe || sent.Load()
		if !o.in.keyed() || ctx.Err() != nil || time.Now().After(end) {
			return
		}
		_ = Sleep(ctx, 50*time.Millisecond)
	}
}

// fate tells of an error whether it says for certain what happened.
func fate(err error) (known bool) {
	switch job.KindOf(err) {
	case "", job.NotFound, job.Conflict, job.Invalid, job.Denied:
		return true
	}
	return false
}

// note keeps what came of an operation.
func (l *load) note(slot int, h *history, o operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.flying--
	at := l.begun.Add(o.back)
	if o.out.known {
		l.done = append(l.done, at)
		if o.in.writes() && !o.out.missing {
			l.acks = append(l.acks, at)
		}
	}
	if o.out.odd != "" {
		l.odd[o.out.odd]++
	}
	h.add(o)
	if !o.out.known && o.in.writes() && !o.out.unsent {
		l.unknown++
	}
	if l.slots[slot] == h && (len(h.ops) >= historyOps || h.open >= historyOpen) {
		l.slots[slot] = l.freshLocked()
		l.retired = append(l.retired, h)
	}
}

// takeRetired gives the histories that nobody adds to any more.
func (l *load) takeRetired() []*history {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*history
	l.retired = slices.DeleteFunc(l.retired, func(h *history) bool {
		if h.flying == 0 {
			out = append(out, h)
		}
		return h.flying == 0
	})
	return out
}

// nextWrite is when the first write after t was acknowledged; it waits a little for one.
func (l *load) nextWrite(t time.Time) time.Time {
	for end := time.Now().Add(recoveryLimit); ; time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		i, _ := slices.BinarySearchFunc(l.acks, t, time.Time.Compare)
		if i < len(l.acks) {
			at := l.acks[i]
			l.mu.Unlock()
			return at
		}
		l.mu.Unlock()
		if time.Now().After(end) {
			return time.Now()
		}
	}
}

// longestSilence is the longest time without an acknowledged write between two moments.
func (l *load) longestSilence(from, to time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.acks, from, time.Time.Compare)
	var longest time.Duration
	for last := from; ; i++ {
		if i >= len(l.acks) || l.acks[i].After(to) {
			return max(longest, to.Sub(last))
		}
		longest, last = max(longest, l.acks[i].Sub(last)), l.acks[i]
	}
}

// longestWithout is for how long of a window, in all, no write was acknowledged: silences of a fifth of a second and more add up when
// they follow on each other, as those of two faults do that hit one leader after another.
func (l *load) longestWithout(window time.Duration, from, to time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	type silence struct{ begun, ended time.Time }
	var all []silence
	i, _ := slices.BinarySearchFunc(l.acks, from, time.Time.Compare)
	for last := from; ; i++ {
		next := to
		if i < len(l.acks) && !l.acks[i].After(to) {
			next = l.acks[i]
		}
		if next.Sub(last) >= 200*time.Millisecond {
			all = append(all, silence{last, next})
		}
		if next.Equal(to) {
			break
		}
		last = next
	}
	var longest time.Duration
	for i, first := range all {
		var sum time.Duration
		for _, s := range all[i:] {
			if s.begun.Sub(first.begun) < window {
				sum += s.ended.Sub(s.begun)
			}
		}
		longest = max(longest, sum)
	}
	return longest
}

// LoadFigures tell of the load.
type LoadFigures struct {
	Ops     int            `json:"ops"`    // with a known end
	Writes  int            `json:"writes"` // acknowledged
	Unknown int            `json:"unknown"`
	Rate    float64        `json:"rate"`    // operations a second, over the seconds with an acknowledged write
	Without int            `json:"without"` // seconds without one
	Odd     map[string]int `json:"odd,omitempty"`
}

func (f LoadFigures) String() string {
	return fmt.Sprintf("%d operations came to a known end, %d of them acknowledged writes, %d writes without a known end; %.0f a second, not counting %d seconds without any acknowledged write",
		f.Ops, f.Writes, f.Unknown, f.Rate, f.Without)
}

func (f LoadFigures) tooLow() string {
	if f.Rate >= loadFloor {
		return ""
	}
	return fmt.Sprintf("the load was %.0f operations a second, its floor is %d", f.Rate, loadFloor)
}

func (l *load) figures() LoadFigures {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := LoadFigures{Ops: len(l.done), Writes: len(l.acks), Unknown: l.unknown, Odd: l.odd}
	per := func(times []time.Time) map[int]int {
		out := map[int]int{}
		for _, t := range times {
			out[int(t.Sub(l.begun)/time.Second)]++
		}
		return out
	}
	done, acks := per(l.done), per(l.acks)
	seconds, ops := 0, 0
	for s := range int(l.ended.Sub(l.begun) / time.Second) {
		if acks[s] == 0 {
			f.Without++
			continue
		}
		seconds++
		ops += done[s]
	}
	if seconds > 0 {
		f.Rate = float64(ops) / float64(seconds)
	}
	return f
}
