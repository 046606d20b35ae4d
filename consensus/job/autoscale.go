package job

import (
	"reflect"
	"strings"
	"time"
)

// Autoscale says how many tasks a service has by what they do: the leader asks their nodes for figures and scales so that
// each comes to its target. The most that any figure asks for counts. It is no part of the service's content.
type Autoscale struct {
	Min int `json:"min"` // at least 1
	Max int `json:"max"`
	// CPU and Memory are targets in percent of what is reserved for a task, or of its limit where nothing is; 0: not asked.
	CPU     int      `json:"cpu,omitempty"`
	Memory  int      `json:"memory,omitempty"`
	Metrics []Metric `json:"metrics,omitempty"` // at most MaxMetrics
	// Up and Down bound each change in one direction.
	Up   ScaleLimit `json:"up,omitzero"`
	Down ScaleLimit `json:"down,omitzero"`
	// Tolerance is by how many percent figures may differ from their targets with nothing done; 0: DefaultTolerance.
	Tolerance int `json:"tolerance,omitempty"`
	// Window is over what time CPU is averaged; 0: DefaultScaleWindow. Shorter follows faster, and noise too.
	Window time.Duration `json:"window,omitempty"`
}

// ScaleLimit bounds changes in one direction.
type ScaleLimit struct {
	// Cooldown is the least time after a change before the next one in this direction. For the way down, the figures must
	// have asked for fewer tasks for as long. 0: DefaultUpCooldown or DefaultDownCooldown.
	Cooldown time.Duration `json:"cooldown,omitempty"`
	// Step is how many tasks one change may add or take; 0: no limit for the way down, and as many as there are, at least
	// four, for the way up.
	Step int `json:"step,omitempty"`
}

// MetricKind says what of a metric is to come to its target.
type MetricKind string

// Kinds of metrics. The zero value is MetricAverage.
const (
	MetricAverage MetricKind = ""    // the mean over the tasks: each tells its own share, such as requests in flight
	MetricSum     MetricKind = "sum" // the sum over the tasks
)

// Metric is a figure that tasks give in the Prometheus text format. Several series that match are added up.
type Metric struct {
	Port   uint16            `json:"port"`
	Path   string            `json:"path,omitempty"` // "": /metrics
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"` // that a series must have, with these values
	Kind   MetricKind        `json:"kind,omitempty"`
	Target float64           `json:"target"` // above 0
}

// Defaults and bounds of autoscaling.
const (
	DefaultTolerance    = 10
	DefaultUpCooldown   = 30 * time.Second
	DefaultDownCooldown = 5 * time.Minute
	DefaultScaleWindow  = 15 * time.Second
	MaxMetrics          = 4
	MaxMetricLabels     = 16
	MaxScaleTime        = 24 * time.Hour
)

// AutoscaleState is what was last done by itself, or by hand, to a service that scales by itself. Apply's pen.
type AutoscaleState struct {
	Job     string    `json:"job"`
	Service string    `json:"service"`
	From    int       `json:"from"`
	To      int       `json:"to"`
	Cause   string    `json:"cause"` // "autoscale: cpu 87 % of 50 %"
	At      time.Time `json:"at"`    // the leader's wall clock
}

// Policy is the autoscale with all defaults filled in.
func (a Autoscale) Policy() Autoscale {
	if a.Tolerance == 0 {
		a.Tolerance = DefaultTolerance
	}
	a.Window = orDefault(a.Window, DefaultScaleWindow)
	a.Up.Cooldown = orDefault(a.Up.Cooldown, DefaultUpCooldown)
	a.Down.Cooldown = orDefault(a.Down.Cooldown, DefaultDownCooldown)
	return a
}

// Clamp brings a number of tasks within the bounds.
func (a *Autoscale) Clamp(n int) int { return min(max(n, a.Min), a.Max) }

// keepAutoscaled takes over, within the new bounds, how many tasks services that scale by themselves have: what a submit
// says is where they begin.
func (s *Spec) keepAutoscaled(old *Spec) {
	for i := range s.Services {
		v := &s.Services[i]
		if v.Autoscale == nil {
			continue
		}
		if old != nil {
			if o := old.Service(v.Name); o != nil && o.Autoscale != nil {
				v.Replicas = o.Replicas
			}
		}
		v.Replicas = v.Autoscale.Clamp(v.Replicas)
	}
}

func sameAutoscale(a, b *Service) bool { return reflect.DeepEqual(a.Autoscale, b.Autoscale) }

func (s *Service) validateAutoscale(p *problems, at string) {
	a := s.Autoscale
	if a == nil {
		return
	}
	if s.Mode != "" && s.Mode != Replicated {
		p.add(at, "only a replicated service has a number of tasks to choose, and this is %s; remove it", s.Mode)
		return
	}
	if a.Min < 1 || a.Max < a.Min || a.Max > MaxReplicas {
		p.add(at, "min %d and max %d: want 1 <= min <= max <= %d", a.Min, a.Max, MaxReplicas)
	}
	if a.CPU == 0 && a.Memory == 0 && len(a.Metrics) == 0 {
		p.add(at, "there is nothing to scale by; give cpu, memory or metrics")
	}
	d := s.Demand()
	percent := func(name string, n int, of int64, what string) {
		switch {
		case n < 0 || n > 10_000:
			p.add(at+"."+name, "%d %% is not within 1 and 10000", n)
		case n > 0 && of == 0:
			p.add(at+"."+name, "it is a share of what a task reserves, and this one reserves nothing; set deploy.resources.reservations.%s or limits.%s", what, what)
		}
	}
	percent("cpu", a.CPU, d.NanoCPUs, "cpus")
	percent("memory", a.Memory, d.MemoryBytes, "memory")
	p.atMost(at+".metrics", len(a.Metrics), MaxMetrics, "metrics")
	for i := range a.Metrics {
		a.Metrics[i].validate(p, at+".metrics")
	}
	if a.Tolerance < 0 || a.Tolerance > 90 {
		p.add(at+".tolerance", "%d %% is not within 0 and 90", a.Tolerance)
	}
	for name, d := range map[string]time.Duration{"window": a.Window, "up.cooldown": a.Up.Cooldown, "down.cooldown": a.Down.Cooldown} {
		if d < 0 || d > MaxScaleTime {
			p.add(at+"."+name, "%v is not within 0 and %v", d, MaxScaleTime)
		}
	}
	for name, n := range map[string]int{"up.step": a.Up.Step, "down.step": a.Down.Step} {
		if n < 0 || n > MaxReplicas {
			p.add(at+"."+name, "%d is not within 0 and %d", n, MaxReplicas)
		}
	}
}

func (m *Metric) validate(p *problems, at string) {
	switch {
	case m.Name == "" || len(m.Name) > MaxTextBytes || strings.ContainsAny(m.Name, " \t\n{}\"#"):
		p.add(at+".name", "%q is no name of a metric", shorten(m.Name))
	case m.Port == 0:
		p.add(at+".port", "is missing for %s; name the port at which the task gives its metrics", shorten(m.Name))
	case !(m.Target > 0) || m.Target > 1e15:
		p.add(at+".target", "%v of %s is not above 0", m.Target, shorten(m.Name))
	case m.Kind != MetricAverage && m.Kind != MetricSum:
		p.add(at+".type", "%q is not known; use average or sum", shorten(string(m.Kind)))
	case m.Path != "" && m.Path[0] != '/' || len(m.Path) > MaxTextBytes:
		p.add(at+".path", "%q does not begin with /", shorten(m.Path))
	}
	p.atMost(at+".labels", len(m.Labels), MaxMetricLabels, "labels")
}
