package scheduler

import (
	"fmt"
	"math"
	"strings"
	"time"

	"shoal/consensus/job"
)

// Figures are what the leader knows of one task that serves; NaN where it does not know.
type Figures struct {
	CPU     float64 // CPUs in use, averaged over the service's window
	Memory  float64 // bytes
	Metrics []float64
}

// Wish is how many tasks the figures of one moment ask for.
type Wish struct {
	At time.Time
	N  int
}

// Desire is how many tasks a service of `current` tasks would have by the figures of those that serve, within its bounds
// but without regard to cool-downs and steps; why names the figure that decided. known is false when there is no figure to
// go by.
//
// The rule is that of Kubernetes' horizontal autoscaler: current × figure / target, rounded up, of all figures the most. Of
// tasks that give no figure it is assumed, on the way up, that they do nothing, and on the way down that they are at their
// target: so what is not known never makes a change larger.
func Desire(s *job.Service, current int, tasks []Figures) (n int, why string, known bool) {
	a := s.Autoscale.Policy()
	demand := s.Demand()
	type figure struct {
		of     func(Figures) float64
		target float64
		sum    bool
		say    func(now float64) string
	}
	var all []figure
	if a.CPU > 0 {
		of := float64(demand.NanoCPUs) / 1e9
		all = append(all, figure{of: func(f Figures) float64 { return f.CPU / of * 100 }, target: float64(a.CPU),
			say: func(now float64) string { return fmt.Sprintf("cpu %.0f %% of %d %%", now, a.CPU) }})
	}
	if a.Memory > 0 {
		all = append(all, figure{of: func(f Figures) float64 { return f.Memory / float64(demand.MemoryBytes) * 100 }, target: float64(a.Memory),
			say: func(now float64) string { return fmt.Sprintf("memory %.0f %% of %d %%", now, a.Memory) }})
	}
	for i, m := range a.Metrics {
		all = append(all, figure{
			of: func(f Figures) float64 {
				if i >= len(f.Metrics) {
					return math.NaN()
				}
				return f.Metrics[i]
			},
			target: m.Target, sum: m.Kind == job.MetricSum,
			say: func(now float64) string { return fmt.Sprintf("%s %.4g of %.4g", m.Name, now, m.Target) }})
	}
	for _, f := range all {
		want, now, ok := desireOne(current, tasks, f.of, f.target, f.sum, float64(a.Tolerance)/100)
		if ok && (!known || want > n) {
			n, why, known = want, f.say(now), true
		}
	}
	return s.Autoscale.Clamp(n), why, known
}

func desireOne(current int, tasks []Figures, of func(Figures) float64, target float64, sum bool, tolerance float64) (n int, now float64, ok bool) {
	total, have := 0.0, 0
	for _, t := range tasks {
		if v := of(t); !math.IsNaN(v) && !math.IsInf(v, 0) {
			total += max(v, 0)
			have++
		}
	}
	if have == 0 || current == 0 {
		return 0, 0, false
	}
	if sum { // of several tasks that say the same, each counts: what is asked is the sum
		if have < current && total < target {
			return current, total, true
		}
		return roundUp(float64(current), total/target, tolerance, current), total, true
	}
	now = total / float64(have)
	if missing := current - have; missing > 0 {
		assumed := total
		if now < target {
			assumed += float64(missing) * target
		}
		was := now
		now = assumed / float64(current)
		if (was > target) != (now > target) { // only what is not known would decide
			return current, was, true
		}
	}
	return roundUp(float64(current), now/target, tolerance, current), now, true
}

func roundUp(n, ratio, tolerance float64, current int) int {
	if math.Abs(ratio-1) <= tolerance {
		return current
	}
	// A hair above a whole number is the arithmetic's, not the figures'.
	return int(min(math.Ceil(n*ratio-1e-9), job.MaxReplicas))
}

// Scale decides on the number of tasks: the newest wish, held back by steps and cool-downs. wishes are those of the last
// time, oldest first, the newest being of now; last is the last change, nil if there was none; began is since when wishes
// are known (a new leader waits for the whole time before it scales down). It gives current when nothing is to be done.
func Scale(policy job.Autoscale, current int, wishes []Wish, last *job.AutoscaleState, began, now time.Time) int {
	a := policy.Policy()
	if current < a.Min || current > a.Max {
		return a.Clamp(current)
	}
	if len(wishes) == 0 {
		return current
	}
	since := time.Duration(math.MaxInt64)
	if last != nil {
		since = now.Sub(last.At)
		if since < 0 { // a clock was set back: wait as if it had been now
			since = 0
		}
	}
	want := wishes[len(wishes)-1].N
	if want > current {
		step := a.Up.Step
		if step == 0 {
			step = max(4, current)
		}
		if since < a.Up.Cooldown {
			return current
		}
		return a.Clamp(min(want, current+step))
	}
	// Down: the most that was wished for during the cool-down.
	if now.Sub(began) < a.Down.Cooldown || since < a.Down.Cooldown {
		return current
	}
	for _, w := range wishes {
		if now.Sub(w.At) <= a.Down.Cooldown {
			want = max(want, w.N)
		}
	}
	if want >= current {
		return current
	}
	if a.Down.Step > 0 {
		want = max(want, current-a.Down.Step)
	}
	return a.Clamp(want)
}

// ScaleCause words why, as events and tasks carry it.
func ScaleCause(why string) string {
	if why == "" {
		return "autoscale: its bounds"
	}
	return "autoscale: " + strings.TrimSpace(why)
}
