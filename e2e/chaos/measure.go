package chaos

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"shoal/node/api"
)

// measurement is a scenario that is played many times for a figure with a goal. A new one is a function in a measure_*.go
// and a line here.
type measurement struct {
	name string
	how  string
	run  func(ctx context.Context, w *World, n int) ([]Figure, error)
	// defaultN is how often it is played.
	defaultN int
	// bare has no services run beside it.
	bare bool
}

var measurements = []measurement{
	{name: "failover", how: "the leader's agent is killed, its power is cut or it is cut off, in turn; every 20 ms a new client begins a write", run: measureFailover, defaultN: 30},
	{name: "stall", how: "the disk of the leader takes no write (FIFREEZE) until another one leads", run: measureStall, defaultN: 10},
	{name: "power", how: "the power of all machines is cut at once (ext4 shut down without its journal) and comes back at once", run: measurePower, defaultN: 10},
	{name: "merge", how: "a partition (two and three, one alone, one way, UDP only, a bridge) is held for 20 s; from its end until all see all alive and all runs", run: measureMerge, defaultN: 10},
	{name: "restarts", how: "100 containers that write numbered lines on five machines; agents are killed and started, up to three at a time", run: measureRestarts, defaultN: 1000, bare: true},
}

// Figure is what was measured of one thing.
type Figure struct {
	Name    string          `json:"name"`
	Samples []time.Duration `json:"samples"`
	Goal    time.Duration   `json:"goal"` // for the 99th percentile, or with fewer than 100 samples the worst
	Note    string          `json:"note,omitempty"`
}

func (f Figure) row() []string {
	worst := time.Duration(0)
	if len(f.Samples) > 0 {
		worst = slices.Max(f.Samples)
	}
	return []string{f.Name, fmt.Sprint(len(f.Samples)), tenths(quantile(f.Samples, 0.5)), tenths(quantile(f.Samples, 0.99)), tenths(worst), tenths(f.Goal), f.Note}
}

// Missed tells whether the goal was missed.
func (f Figure) Missed() bool { return f.Goal > 0 && quantile(f.Samples, 0.99) > f.Goal }

// measureAll plays the measurements whose names match.
func (r *run) measureAll(ctx context.Context, only string) error {
	which, err := regexp.Compile("^(" + strings.ReplaceAll(only, ",", "|") + ")$")
	if err != nil {
		return err
	}
	if only == "all" {
		which = regexp.MustCompile("")
	}
	played := false
	for _, m := range measurements {
		if !which.MatchString(m.name) {
			continue
		}
		played = true
		n := m.defaultN
		if r.Count > 0 {
			n = r.Count
		}
		r.say("%s: %s", m.name, m.how)
		if !m.bare {
			if err := r.w.startServices(ctx); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
		figures, err := m.run(ctx, r.w, n)
		r.report.Figures = append(r.report.Figures, figures...)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if err := r.w.emptied(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if !played {
		return fmt.Errorf("no measurement matches %q: there are %s, and all", only, measureNames())
	}
	return nil
}

func measureNames() string {
	var out []string
	for _, m := range measurements {
		out = append(out, m.name)
	}
	return strings.Join(out, ", ")
}

func (r *Report) figures(w io.Writer) {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "measured\tn\tp50\tp99\tworst\tgoal\t")
	for _, f := range r.Figures {
		fmt.Fprintln(t, strings.Join(f.row(), "\t"))
	}
	_ = t.Flush() // as w does
}

// probe begins a write every 20 ms, each with a client of its own that waits for seconds, until stopped: so one that hangs
// keeps no other from trying. It tells when the first write that was begun after a moment was acknowledged.
type probe struct {
	w      *World
	cancel context.CancelFunc
	acks   chan ack
}

type ack struct{ begun, done time.Time }

const (
	probeEvery = 20 * time.Millisecond
	probeFor   = 5 * time.Second
	probeJob   = "probe"
)

func (w *World) startProbe(ctx context.Context) *probe {
	ctx, cancel := context.WithCancel(ctx)
	p := &probe{w: w, cancel: cancel, acks: make(chan ack, 1<<16)}
	go func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			free := w.Free()
			if len(free) == 0 {
				continue
			}
			m := free[i%len(free)]
			go func() {
				begun := time.Now()
				ctx, cancel := context.WithTimeout(ctx, probeFor)
				defer cancel()
				c := m.Client()
				defer c.Close()
				if _, err := c.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: loadSpec(probeJob, fmt.Sprint(i), 0)}); err != nil {
					return
				}
				select {
				case p.acks <- ack{begun, time.Now()}:
				default: // nobody reads any more
				}
			}()
		}
	}()
	return p
}

// silence is the longest time without an acknowledgement, from a moment on until that of the first write that was begun after
// another moment.
func (p *probe) silence(ctx context.Context, from, after time.Time) (longest time.Duration, err error) {
	last := from
	for {
		a, err := p.next(ctx)
		if err != nil {
			return 0, err
		}
		longest = max(longest, a.done.Sub(last))
		if a.done.After(last) {
			last = a.done
		}
		if a.begun.After(after) {
			return longest, nil
		}
	}
}

// firstAfter waits for the first acknowledgement of a write that was begun after t.
func (p *probe) firstAfter(ctx context.Context, t time.Time) (time.Time, error) {
	for {
		a, err := p.next(ctx)
		if err != nil || a.begun.After(t) {
			return a.done, err
		}
	}
}

func (p *probe) next(ctx context.Context) (ack, error) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case a := <-p.acks:
		return a, nil
	case <-ctx.Done():
		return ack{}, ctx.Err()
	case <-limit.C:
		return ack{}, fmt.Errorf("no write was acknowledged within %v", patience)
	}
}
