package scheduler

import (
	"math"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func scaling(a job.Autoscale) *job.Service {
	return &job.Service{Name: "web", Autoscale: &a, Reservations: job.Resources{NanoCPUs: 5e8, MemoryBytes: 100 << 20}}
}

func TestDesire(t *testing.T) {
	nan := math.NaN()
	cpus := func(cs ...float64) (out []Figures) {
		for _, c := range cs {
			out = append(out, Figures{CPU: c, Memory: 50 << 20, Metrics: []float64{c * 100}})
		}
		return out
	}
	queue := []job.Metric{{Name: "queue", Target: 50}}
	for _, tt := range []struct {
		name    string
		a       job.Autoscale
		current int
		tasks   []Figures
		want    int
		why     string
	}{
		{"twice the target, twice the tasks", job.Autoscale{Min: 1, Max: 10, CPU: 50}, 2, cpus(0.5, 0.5), 4, "cpu 100 % of 50 %"},
		{"rounded up", job.Autoscale{Min: 1, Max: 10, CPU: 50}, 2, cpus(0.32, 0.32), 3, "cpu 64 % of 50 %"},
		{"within tolerance", job.Autoscale{Min: 1, Max: 10, CPU: 50}, 2, cpus(0.27, 0.27), 2, "cpu 54 % of 50 %"},
		{"bounded above", job.Autoscale{Min: 1, Max: 3, CPU: 50}, 2, cpus(0.5, 0.5), 3, "cpu 100 % of 50 %"},
		{"bounded below", job.Autoscale{Min: 2, Max: 3, CPU: 50}, 3, cpus(0, 0, 0), 2, "cpu 0 % of 50 %"},
		{"down", job.Autoscale{Min: 1, Max: 10, CPU: 50}, 4, cpus(0.1, 0.1, 0.1, 0.1), 2, "cpu 20 % of 50 %"},
		{"unknown tasks do nothing on the way up", job.Autoscale{Min: 1, Max: 10, CPU: 50}, 4, cpus(0.5, 0.5, nan), 4, "cpu 100 % of 50 %"},
		{"unknown tasks are at their target on the way down", job.Autoscale{Min: 1, Max: 10, CPU: 50}, 4, cpus(0, 0, 0), 1, "cpu 12 % of 50 %"},
		{"nothing known", job.Autoscale{Min: 1, Max: 10, CPU: 50}, 4, cpus(nan), 0, ""},
		{"the most of all figures", job.Autoscale{Min: 1, Max: 10, CPU: 50, Memory: 25}, 2, cpus(0.25, 0.25), 4, "memory 50 % of 25 %"},
		{"a metric's average", job.Autoscale{Min: 1, Max: 10, Metrics: queue}, 2, cpus(1, 2), 6, "queue 150 of 50"},
		{"a metric's sum", job.Autoscale{Min: 1, Max: 20, Metrics: []job.Metric{{Name: "queue", Target: 100, Kind: job.MetricSum}}}, 2, cpus(1, 2), 6, "queue 300 of 100"},
		{"a sum that is not whole takes nothing away", job.Autoscale{Min: 1, Max: 20, Metrics: []job.Metric{{Name: "queue", Target: 1000, Kind: job.MetricSum}}}, 3, cpus(1, 2), 3, "queue 300 of 1000"},
	} {
		n, why, known := Desire(scaling(tt.a), tt.current, tt.tasks)
		if known != (tt.why != "") || known && (n != tt.want || why != tt.why) {
			t.Errorf("%s: %d because %q, want %d because %q", tt.name, n, why, tt.want, tt.why)
		}
	}
}

func TestScaleIsHeldBackByStepsAndCoolDowns(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	wishes := func(ns ...int) (out []Wish) { // a minute apart, the last one now
		for i, n := range ns {
			out = append(out, Wish{ago(time.Duration(len(ns)-1-i) * time.Minute), n})
		}
		return out
	}
	for _, tt := range []struct {
		name    string
		a       job.Autoscale
		current int
		wishes  []Wish
		last    time.Duration // ago; 0: never
		began   time.Duration
		want    int
	}{
		{"up at once", job.Autoscale{Min: 1, Max: 20}, 2, wishes(4), 0, 0, 4},
		{"up by four at least", job.Autoscale{Min: 1, Max: 20}, 2, wishes(20), 0, 0, 6},
		{"up to twice", job.Autoscale{Min: 1, Max: 20}, 7, wishes(20), 0, 0, 14},
		{"up by the step", job.Autoscale{Min: 1, Max: 20, Up: job.ScaleLimit{Step: 1}}, 2, wishes(20), 0, 0, 3},
		{"up after the cool-down only", job.Autoscale{Min: 1, Max: 20}, 2, wishes(4), 29 * time.Second, time.Hour, 2},
		{"and then", job.Autoscale{Min: 1, Max: 20}, 2, wishes(4), 30 * time.Second, time.Hour, 4},
		{"down not before it was watched for the cool-down", job.Autoscale{Min: 1, Max: 20}, 5, wishes(2), 0, 4 * time.Minute, 5},
		{"down to the most of that time", job.Autoscale{Min: 1, Max: 20}, 5, wishes(5, 3, 3, 4, 2, 2, 2), 0, 5 * time.Minute, 4},
		{"down by the step", job.Autoscale{Min: 1, Max: 20, Down: job.ScaleLimit{Step: 1}}, 9, wishes(2, 2, 2, 2, 2, 2), 0, time.Hour, 8},
		{"down after the cool-down only", job.Autoscale{Min: 1, Max: 20}, 5, wishes(2, 2, 2, 2, 2, 2), 4 * time.Minute, time.Hour, 5},
		{"into new bounds at once", job.Autoscale{Min: 3, Max: 4}, 9, nil, time.Second, 0, 4},
		{"a clock that was set back waits", job.Autoscale{Min: 1, Max: 20}, 2, wishes(4), -time.Hour, time.Hour, 2},
	} {
		var last *job.AutoscaleState
		if tt.last != 0 {
			last = &job.AutoscaleState{At: ago(tt.last)}
		}
		if got := Scale(tt.a, tt.current, tt.wishes, last, ago(tt.began), now); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestAutoscaleIsKeptBySubmitsAndToldByTasks(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	web := func(a job.Autoscale) job.Service {
		return svc("web", 2, func(s *job.Service) { s.Autoscale, s.Reservations.NanoCPUs = &a, 1e8 })
	}
	w.submit("j", web(job.Autoscale{Min: 1, Max: 8, CPU: 50}))
	w.settle()
	w.apply(state.Autoscale{Job: "j", Service: "web", From: 2, To: 5, Cause: "autoscale: cpu 99 % of 50 %", At: w.now})
	w.settle()
	got := w.running("j", "web")
	if len(got) != 5 || got[4].Cause != "autoscale: cpu 99 % of 50 %" {
		t.Fatal(w.dump())
	}
	if v := w.store.View().Job("j").Version; v != 1 {
		t.Errorf("version %d: scaling made a new one", v)
	}
	if j := w.submit("j", web(job.Autoscale{Min: 1, Max: 8, CPU: 50})); j.Version != 1 || j.Spec.Services[0].Replicas != 5 {
		t.Errorf("the same file again: version %d, %d replicas", j.Version, j.Spec.Services[0].Replicas)
	}
	if j := w.submit("j", web(job.Autoscale{Min: 1, Max: 4, CPU: 50})); j.Spec.Services[0].Replicas != 4 {
		t.Errorf("closer bounds: %d replicas", j.Spec.Services[0].Replicas)
	}
	w.settle()
	if n := len(w.running("j", "web")); n != 4 {
		t.Error(w.dump())
	}
	for _, c := range []state.Command{
		state.Autoscale{Job: "j", Service: "web", From: 5, To: 3, At: w.now},
		state.Autoscale{Job: "j", Service: "web", From: 4, To: 9, At: w.now},
		state.ScaleJob{Job: "j", Replicas: map[string]int{"web": 9}, At: w.now},
	} {
		if r := w.tryApply(c); r.Err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	w.apply(state.ScaleJob{Job: "j", Replicas: map[string]int{"web": 3}, At: w.now})
	if a := w.store.View().Autoscale("j", "web"); a == nil || a.To != 3 || a.Cause != "scaled by hand" {
		t.Errorf("by hand: %+v", a)
	}
}
