package game

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"shoal/consensus/job"
)

// How often the cluster is probed, and how long a probe may take.
const (
	lookEvery    = 250 * time.Millisecond
	writeEvery   = 400 * time.Millisecond
	lookPatience = 3 * time.Second
	// writePatience is what a change without a quorum takes to fail, and a little.
	writePatience = 8 * time.Second
	// lookShare: a look at a large cluster may take a fifth of the time at most.
	lookShare = 5
	// lookSeldom is how long it waits at most: an answer is also slow because of a fault, and its end must be seen.
	lookSeldom = 600 * time.Millisecond
	// maxSamples of a kind are kept; the oldest halves go, every other one.
	maxSamples = 100_000
)

// sample is one look at the cluster.
type sample struct {
	At      time.Time
	Took    time.Duration
	OK      bool // an answer that a leader confirmed
	Stale   bool
	Leader  string
	NotWell []string // what unwell said
	Down    []string // nodes that are not ready or not alive
	Ready   int      // of the watched jobs
	Want    int
	Probe   uint64 // as read
}

// write is one probe that changes something.
type write struct {
	At   time.Time
	Took time.Duration
	Seq  uint64
	OK   bool
	Err  string
}

// watcher probes the cluster while the game plays: it looks, it writes a number, and reads it back.
type watcher struct {
	cl      Cluster
	home    job.NodeID // whose label is written
	watched []string

	// writing is held by a probe that writes; done: none does any more. One that waits for a cluster without a leader is
	// waited for with it: writePatience bounds that.
	writing sync.Mutex
	done    bool

	mu      sync.Mutex
	samples []sample
	writes  []write
	last    view
	lastAt  time.Time
	reg     register
}

// register is what the probes know of the number that they write: what was acknowledged must be read, or something later,
// or one whose outcome is not known, because that may still come to pass.
type register struct {
	seq    uint64          // the last that was tried
	acked  uint64          // the last that was acknowledged
	open   map[uint64]bool // tried, with an unknown outcome
	reads  int
	breach []breach // reads that contradict it
	gone   []breach // reads that found nothing at all: as whoever stops the game elsewhere leaves it
}

// maxOpen bounds the writes of unknown outcome that are remembered; so many failures in a row end no game that was meant.
const maxOpen = 10_000

type breach struct {
	at   time.Time
	text string
}

// read judges a confirmed read that began when floor was acknowledged.
func (r *register) read(at time.Time, floor, got uint64) {
	r.reads++
	switch {
	case got == 0 && floor > 0:
		r.gone = append(r.gone, breach{at, "change " + strconv.FormatUint(floor, 10) + " was acknowledged, and a confirmed read that began afterwards found nothing"})
	case got < floor && !r.open[got]:
		r.breach = append(r.breach, breach{at, "change " + strconv.FormatUint(floor, 10) + " was acknowledged, and a confirmed read that began afterwards gave " + strconv.FormatUint(got, 10)})
	case got > r.seq:
		r.breach = append(r.breach, breach{at, "a read gave change " + strconv.FormatUint(got, 10) + ", which was never made"})
	}
}

func (w *watcher) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for pause := lookEvery; sleep(ctx, pause); {
			pause = min(max(lookEvery, lookShare*w.look(ctx)), lookSeldom)
		}
	})
	wg.Go(func() {
		for sleep(ctx, writeEvery) {
			w.write(ctx)
		}
	})
}

// ask looks at the cluster once.
func ask(ctx context.Context, cl Cluster) (view, error) {
	var v view
	var err error
	if v.nodes, err = cl.Nodes(ctx); err == nil {
		v.jobs, err = cl.Jobs(ctx)
	}
	return v, err
}

func (w *watcher) look(ctx context.Context) (took time.Duration) {
	asking, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	begun := time.Now()
	w.mu.Lock()
	floor := w.reg.acked
	w.mu.Unlock()
	v, err := ask(asking, w.cl)
	s := sample{At: begun, Took: time.Since(begun)}
	if ctx.Err() != nil {
		return s.Took
	}
	if err != nil {
		s.NotWell = []string{"no answer: " + err.Error()}
		w.keep(s, nil, 0)
		return 0 // it is not the cluster's size that takes the time
	}
	s.Stale = v.nodes.Stale || v.jobs.Stale
	s.OK = !s.Stale
	s.NotWell = v.unwell(w.watched)
	for i := range v.nodes.Nodes {
		n := &v.nodes.Nodes[i]
		if n.Leader && s.OK {
			s.Leader = n.Name
		}
		if n.State != job.NodeLeft && (n.State != job.NodeReady || n.Gossip != "" && n.Gossip != "alive") {
			s.Down = append(s.Down, n.Name)
		}
		if n.ID == w.home {
			s.Probe, _ = strconv.ParseUint(n.Labels[probeLabel], 10, 64) // 0: none yet
		}
	}
	for i := range v.jobs.Jobs {
		if j := &v.jobs.Jobs[i]; slices.Contains(w.watched, j.Name) && !j.Stopped {
			s.Ready, s.Want = s.Ready+min(j.Ready, j.Want), s.Want+j.Want
		}
	}
	w.keep(s, &v, floor)
	return s.Took
}

func (w *watcher) keep(s sample, v *view, floor uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples = append(thin(w.samples), s)
	if v != nil && s.OK {
		w.last, w.lastAt = *v, s.At
		w.reg.read(s.At, floor, s.Probe)
	}
}

func (w *watcher) write(ctx context.Context) {
	w.writing.Lock()
	defer w.writing.Unlock()
	if w.done {
		return
	}
	w.mu.Lock()
	w.reg.seq++
	seq := w.reg.seq
	w.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	p := write{At: time.Now(), Seq: seq}
	err := w.cl.SetLabels(asking, string(w.home), map[string]string{probeLabel: strconv.FormatUint(seq, 10)})
	p.Took, p.OK = time.Since(p.At), err == nil
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		p.Err = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(thin(w.writes), p)
	switch {
	case p.OK:
		w.reg.acked = seq
	case len(w.reg.open) < maxOpen:
		w.reg.open[seq] = true
	}
}

func thin[T any](all []T) []T {
	if len(all) < maxSamples {
		return all
	}
	var out []T
	for i, s := range all {
		if i > len(all)/2 || i%2 == 0 {
			out = append(out, s)
		}
	}
	return out
}

// latest is the newest confirmed look and whether it is not older than since.
func (w *watcher) latest(since time.Time) (view, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, !w.lastAt.Before(since)
}

// since gives the samples from a time on.
func (w *watcher) since(at time.Time) []sample {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.samples)
	for i > 0 && !w.samples[i-1].At.Before(at) {
		i--
	}
	return slices.Clone(w.samples[i:])
}

// settledAt is when the cluster was whole again: the first of enough looks in a row, all after at. ok is false if it is
// not yet.
func settledAt(samples []sample, enough int) (at time.Time, ok bool) {
	run := 0
	for _, s := range samples {
		if !s.OK || len(s.NotWell) > 0 {
			run = 0
			continue
		}
		if run == 0 {
			at = s.At.Add(s.Took)
		}
		if run++; run >= enough {
			return at, true
		}
	}
	return time.Time{}, false
}

// pause ends the probes that write, so that what they wrote can be removed. One that is under way is waited for.
func (w *watcher) pause() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.done = true
}

func (w *watcher) writesSince(at time.Time) []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.writes)
	for i > 0 && !w.writes[i-1].At.Before(at) {
		i--
	}
	return slices.Clone(w.writes[i:])
}

// lastComplaint is what the last look within a span of time found missing.
func (w *watcher) lastComplaint(from, to time.Time) string {
	said := ""
	for _, s := range w.since(from) {
		if s.At.Before(to) && len(s.NotWell) > 0 {
			said = strings.Join(s.NotWell, ", ")
		}
	}
	return said
}
