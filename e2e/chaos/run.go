package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"shoal/e2e/machines"
)

// Options of a run.
type Options struct {
	Binary   string
	Next     string // another build of it, for upgrades; "": none
	Seed     uint64
	Count    int           // of faults to play, not counting those that cannot be as things are; 0: as many as the time allows
	Time     time.Duration // 0: until Count are played
	Only     string        // names of faults, with commas between; "": all with a weight
	Short    bool
	Patience time.Duration // how long to wait for what does not come back; 0: recoveryPatience
	Measure  string        // names of measurements, with commas between, or "all"; "": faults are played
	Keep     bool          // keep the logs of a run without violations too
	Evidence string        // directory; what is in it already stays
	Out      io.Writer
}

const (
	clusterSize  = 5
	defaultCount = 60
	skipLimit    = 50 // so many faults more than asked for may turn out to be impossible
	// recoveryLimit is how soon after a fault's end everything runs again.
	recoveryLimit = 30 * time.Second
	// recoveryOdd is from when on a recovery is worth a look: while it lasts, and at what was waited for.
	recoveryOdd = 10 * time.Second
	// recoveryPatience is for how long the run goes on when that is missed, to tell the true figure.
	recoveryPatience = 3 * time.Minute
)

// actPatience is how much longer than meant a fault holds that was not yet seen to act.
const actPatience = 15 * time.Second

// run is one run of all.
type run struct {
	Options
	w      *World
	load   *load
	check  *checker
	report Report
	dir    string // of the evidence

	mu sync.Mutex // guards Out
}

// Run forms a cluster, plays faults and judges. It never panics; what went wrong is in the report.
func Run(ctx context.Context, o Options) *Report {
	if o.Count == 0 && o.Time == 0 && o.Measure == "" {
		o.Count = defaultCount
	}
	r := &run{Options: o}
	r.report = Report{Seed: o.Seed, Begun: time.Now(), Binary: o.Binary}
	if err := r.all(ctx); err != nil {
		r.report.Trouble = err.Error()
	}
	r.report.Took = time.Since(r.report.Begun)
	r.report.print(o.Out)
	if r.dir != "" {
		_ = os.WriteFile(filepath.Join(r.dir, "report.json"), r.report.json(), 0o644) // it was printed
		_ = os.WriteFile(filepath.Join(r.dir, "report.md"), []byte(r.report.markdown()), 0o644)
		fmt.Fprintf(o.Out, "kept in %s\n", r.dir)
	}
	return &r.report
}

func (r *run) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.Out, format+"\n", args...)
}

func (r *run) all(ctx context.Context) (err error) {
	faults, err := choose(Faults, r.Only, r.Short)
	if err != nil {
		return err
	}
	for _, path := range []*string{&r.Binary, &r.Next} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if _, err := os.Stat(r.Binary); err != nil {
		return fmt.Errorf("%w: build it with `make build`", err)
	}
	r.dir = filepath.Join(r.Evidence, fmt.Sprintf("%s-seed%d", time.Now().Format("0102-150405"), r.Seed))
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "shoal-chaos-")
	if err != nil {
		return err
	}
	n, err := machines.New(machines.Options{Binary: r.Binary, Dir: filepath.Join(scratch, "net")})
	if err != nil {
		return errors.Join(err, os.RemoveAll(scratch))
	}
	defer func() {
		r.keep(n, scratch, err)
		left := errors.Join(n.Close(), n.Gone())
		if left != nil {
			r.violated("nothing is left behind on the host", left.Error())
		}
		err = errors.Join(err, os.RemoveAll(scratch))
	}()
	r.w = &World{Net: n, Scratch: scratch, Short: r.Short, Next: r.Next, logf: r.say, busy: map[*machines.Machine]string{}}
	r.say("seed %d", r.Seed)
	if err := form(n, clusterSize); err != nil {
		return fmt.Errorf("form the cluster: %w", err)
	}
	if r.Measure != "" {
		return r.measureAll(ctx, r.Measure)
	}
	held, err := r.w.takeAll(ctx)
	if err != nil {
		return err
	}
	if err := r.w.startServices(ctx); err != nil {
		return fmt.Errorf("start the services: %w", err)
	}
	return r.playAll(ctx, newPlanner(r.Seed, faults), held)
}

// playAll plays faults until the count or the time is reached.
func (r *run) playAll(ctx context.Context, p *planner, held account) error {
	r.load = startLoad(r.w)
	r.check = newChecker(r.w, r.load, held, r.dir, func(promise, what string) {
		if ctx.Err() == nil { // a run that is broken off proves nothing: its machines are going down
			r.violated(promise, what)
		}
	})
	defer r.load.stop()
	for begun := time.Now(); ; {
		left := 2
		if r.Count > 0 {
			left = r.Count - len(r.report.Played)
		}
		if left < 1 || r.Time > 0 && time.Since(begun) > r.Time {
			break
		}
		if r.Count > 0 && r.report.Skipped > skipLimit+r.Count {
			r.report.Void = append(r.report.Void, fmt.Sprintf("only %d of %d faults could be played", len(r.report.Played), r.Count))
			break
		}
		if err := r.step(ctx, p.next(left)); err != nil {
			return err
		}
		if len(r.report.Violated) > 0 || len(r.report.Void) > 0 {
			break // what comes afterwards may be its consequence
		}
	}
	r.load.stop()
	r.check.last(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	r.report.Load = r.load.figures()
	r.report.Checked = r.check.sums()
	for _, why := range []string{r.report.Load.tooLow(), r.check.blind()} {
		if why != "" {
			r.report.Void = append(r.report.Void, why)
		}
	}
	return nil
}

// under is a fault under way.
type under struct {
	play
	*Broken
	began, ended time.Time
	err          error // ErrNotNow, or of the harness
	void         error
}

// step plays one or two faults, waits until all runs again, and judges.
func (r *run) step(ctx context.Context, s step) error {
	before := r.check.before()
	var all []*under
	first := r.begin(ctx, s.faults[0])
	all = append(all, first)
	var wg sync.WaitGroup
	if first.err == nil {
		wg.Go(func() { r.hold(ctx, first) })
		if len(s.faults) > 1 {
			_ = Sleep(ctx, time.Duration(s.lag*float64(first.For)))
			second := r.begin(ctx, s.faults[1])
			all = append(all, second)
			if second.err == nil {
				r.hold(ctx, second)
			}
		}
	}
	wg.Wait()
	var played []*under
	for _, u := range all {
		var broke notKept
		switch {
		case errors.Is(u.err, ErrNotNow):
			r.report.Skipped++
			continue
		case u.err != nil:
			return fmt.Errorf("%s: %w", u.Name, u.err)
		case u.void != nil && !errors.As(u.void, &broke): // recover tells of those
			r.report.Void = append(r.report.Void, fmt.Sprintf("%s (%s) was not seen to act: %v", u.Name, u.What, u.void))
		}
		played = append(played, u)
	}
	if len(played) == 0 {
		return ctx.Err()
	}
	return r.recover(ctx, played, before)
}

func (r *run) begin(ctx context.Context, p play) *under {
	u := &under{play: p, began: time.Now()}
	if u.Broken, u.err = p.Play(ctx, r.w, p.rand()); u.err == nil {
		r.w.take(u.Broken, p.Name)
	}
	return u
}

func (r *run) hold(ctx context.Context, u *under) {
	_ = Sleep(ctx, u.For)
	if u.Acted != nil {
		u.void = u.Acted()
		// One that waits for a chance, such as a packet in a thousand, gets a little longer for it.
		for end := time.Now().Add(actPatience); u.void != nil && time.Now().Before(end) && ctx.Err() == nil; u.void = u.Acted() {
			_ = Sleep(ctx, 200*time.Millisecond)
			u.Allows.MovesAll = true
		}
	}
	u.err = u.End(context.WithoutCancel(ctx))
	u.ended = time.Now()
	r.w.release(u.Broken)
}

// recover waits until all runs again, tells how long that took, and judges.
func (r *run) recover(ctx context.Context, played []*under, before *moment) error {
	var last time.Time
	var what []string
	for _, u := range played {
		what = append(what, fmt.Sprintf("%s: %s for %v", u.Name, u.What, u.For.Round(time.Millisecond)))
		if u.ended.After(last) {
			last = u.ended
		}
	}
	r.check.after = strings.Join(what, "; ")
	for _, u := range played {
		var broke notKept
		if errors.As(u.void, &broke) && ctx.Err() == nil { // a run that is broken off did not ask for as long as it should
			r.violated(broke.promise, fmt.Sprintf("%s (%s): %s", u.Name, u.What, broke.what))
		}
	}
	busy := measureBusy(ctx)
	looked := r.lookAfter(recoveryOdd)
	at, err := r.w.awaitSettled(ctx, cmp.Or(r.Patience, recoveryPatience))
	factor := busy()
	looked()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if wrote := r.load.nextWrite(last); wrote.After(at) {
		r.w.missing.note(at.Sub(last), errors.New("a write that is acknowledged"))
		at = wrote
	}
	for _, u := range played {
		p := Played{
			N: len(r.report.Played) + 1, Name: u.Name, What: u.What, Began: u.began, Held: u.ended.Sub(u.began),
			Recovery: at.Sub(last), NoWrites: r.load.longestSilence(u.began, at), Overlaps: len(played) > 1,
		}
		r.report.Played = append(r.report.Played, p)
		r.say("%s", p.line())
	}
	if at.Sub(last) > recoveryOdd {
		for _, m := range r.w.missing {
			r.say("      missing after %.2f s: %s", m.after.Seconds(), m.what)
		}
	}
	switch {
	case err != nil:
		r.violated("everything asked for runs again within 30 s of the fault's end", err.Error())
		return nil
	case at.Sub(last) > recoveryLimit:
		slow := fmt.Sprintf("it took %v on a host on which everything takes %.1f times as long as on an idle one", at.Sub(last).Round(time.Millisecond), factor)
		if float64(at.Sub(last)) > float64(recoveryLimit)*factor {
			r.violated("everything asked for runs again within 30 s of the fault's end", slow)
		} else {
			r.say("      %s", slow)
		}
	}
	var allows []Allowance
	for _, u := range played {
		allows = append(allows, u.Allows)
		r.check.silent = max(r.check.silent, r.load.longestWithout(fencedLease, u.began, at))
	}
	r.check.now(ctx, before, allows)
	return nil
}

// violated notes a broken promise.
func (r *run) violated(promise, what string) {
	after := ""
	if r.check != nil {
		after = r.check.after
	}
	v := Violation{At: time.Now(), Promise: promise, What: what, After: after, Evidence: r.dir}
	r.report.Violated = append(r.report.Violated, v)
	r.say("VIOLATION %s: %s", promise, what)
}

// lookAfter keeps what all machines say at a time from now, unless stop is called before; it waits for a look that has begun.
func (r *run) lookAfter(d time.Duration) (stop func()) {
	done := make(chan struct{})
	dir := filepath.Join(r.dir, fmt.Sprintf("after-%d", len(r.report.Played)+1))
	look := time.AfterFunc(d, func() {
		defer close(done)
		if err := os.MkdirAll(dir, 0o755); err == nil {
			r.ask(r.w.Net, dir)
		}
	})
	return func() {
		if !look.Stop() {
			<-done
		}
	}
}

// keep copies what tells of a run that went wrong out of the way of the clean-up.
func (r *run) keep(n *machines.Net, scratch string, err error) {
	if err == nil && r.report.Code() == 0 && !r.Keep {
		return
	}
	r.ask(n, r.dir)
	_ = copyFile(filepath.Join(scratch, "record"), filepath.Join(r.dir, "record"))
}

// ask puts what all machines say, and have said, into a directory. What can be kept is kept.
func (r *run) ask(n *machines.Net, dir string) {
	each(n.Machines(), func(_ int, m *machines.Machine) {
		_ = copyFile(m.LogPath(), filepath.Join(dir, m.Name+".agent.log"))
		for _, verb := range [][]string{{"ps", "-a"}, {"node", "ls"}, {"members"}, {"events"}, {"debug"}} {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			out := m.ShoalContext(ctx, nil, verb...)
			cancel()
			_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.%s.txt", m.Name, verb[0])), []byte(out.String()), 0o644)
		}
	})
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}
