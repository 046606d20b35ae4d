package node

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/scheduler"
	"shoal/consensus/state"
	"shoal/node/api"
	"shoal/runtime"
)

// Bounds of autoscaling.
const (
	// scaleInterval is how often the leader asks for figures and decides. Shorter follows faster, at a request to each
	// node with such tasks.
	scaleInterval    = 5 * time.Second
	sampleTimeout    = 4 * time.Second // of asking all nodes
	scrapeTimeout    = 2 * time.Second // of one task's metrics
	sampleNodes      = 64              // nodes asked at a time
	scrapesAtOnce    = 32              // on one node
	maxScaleWishes   = 20_000          // kept for one service: a day of them
	maxSampleHistory = 64              // kept for one task: of the longest window those that are spread over it
)

// autoscaler is what the leader remembers between two looks. It is lost with the term: a new leader scales up by its first
// figures, and down only when it has watched for the cool-down.
type autoscaler struct {
	n        *Node
	services map[[2]string]*scaled
	tasks    map[job.TaskID]*sampled
	changes  anchored[[2]string] // the last change of each service
}

type scaled struct {
	began  time.Time
	wishes []scheduler.Wish
	seen   bool
	said   string
}

type sampled struct {
	past []api.Sample // oldest first
	seen bool
}

// keepScale has services with x-autoscale follow their figures for as long as this node leads.
func (n *Node) keepScale(ctx context.Context) error {
	a := &autoscaler{n: n, services: map[[2]string]*scaled{}, tasks: map[job.TaskID]*sampled{}, changes: anchored[[2]string]{n: n}}
	for sleep(ctx, scaleInterval) {
		a.look(ctx)
	}
	return nil
}

// look asks and decides once.
func (a *autoscaler) look(ctx context.Context) {
	view := a.n.state.View()
	requests := map[job.NodeID]*api.SampleRequest{}
	var services []*job.Service
	var jobs []*job.Job
	for _, j := range view.Jobs() {
		for i := range j.Spec.Services {
			s := &j.Spec.Services[i]
			if s.Autoscale == nil || j.Stopped {
				continue
			}
			services, jobs = append(services, s), append(jobs, j)
			for _, t := range view.Ready(j.Name, s.Name) {
				if node := view.Node(t.Node); node == nil || node.State != job.NodeReady {
					continue
				}
				r := requests[t.Node]
				if r == nil {
					r = &api.SampleRequest{}
					requests[t.Node] = r
				}
				if len(r.Tasks) < api.MaxSampled {
					r.Tasks = append(r.Tasks, api.SampleTask{Task: t.ID, Metrics: s.Autoscale.Metrics})
				}
			}
		}
	}
	samples := a.ask(ctx, view, requests)
	for i, s := range services {
		a.decide(ctx, view, jobs[i], s, samples)
	}
	for k, s := range a.services {
		if !s.seen {
			delete(a.services, k)
			a.changes.forget(k)
		}
		s.seen = false
	}
	for id, t := range a.tasks {
		if !t.seen {
			delete(a.tasks, id)
		}
		t.seen = false
	}
}

// ask collects the figures of all tasks asked for; of nodes that do not answer in time there are none.
func (a *autoscaler) ask(ctx context.Context, view *state.View, requests map[job.NodeID]*api.SampleRequest) map[job.TaskID]api.Sample {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[job.TaskID]api.Sample{}
	slots := make(chan struct{}, sampleNodes)
	for id, r := range requests {
		node := view.Node(id)
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var res api.SampleResult
			var err error
			if id == a.n.id {
				res, err = a.n.Sample(ctx, *r)
			} else {
				res, err = api.NewClient(node.Addr.String(), a.n.peers.transport).Sample(ctx, *r)
			}
			if err != nil {
				a.n.log.Debug("no figures of a node", "node", node.Name, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, s := range res.Samples {
				out[s.Task] = s
			}
		})
	}
	wg.Wait()
	return out
}

// decide scales one service if it is to be.
func (a *autoscaler) decide(ctx context.Context, view *state.View, j *job.Job, s *job.Service, samples map[job.TaskID]api.Sample) {
	now := time.Now()
	key := [2]string{j.Name, s.Name}
	mem := a.services[key]
	if mem == nil {
		mem = &scaled{began: now}
		a.services[key] = mem
	}
	mem.seen = true
	policy := s.Autoscale.Policy()
	var figures []scheduler.Figures
	trouble := ""
	for _, t := range view.Ready(j.Name, s.Name) {
		if sample, ok := samples[t.ID]; ok {
			figures = append(figures, a.figuresOf(sample, policy.Window))
			if sample.MetricsError != "" {
				trouble = sample.MetricsError
			}
		}
	}
	if trouble != mem.said {
		if mem.said = trouble; trouble != "" {
			a.n.log.Warn("a task gives no metrics to scale by", "job", j.Name, "service", s.Name, "error", trouble)
		}
	}
	n, why, known := scheduler.Desire(s, s.Replicas, figures)
	if known {
		mem.wish(scheduler.Wish{At: now, N: n}, policy.Down.Cooldown)
	}
	if !known && s.Autoscale.Clamp(s.Replicas) == s.Replicas {
		return
	}
	last := view.Autoscale(j.Name, s.Name)
	if last != nil {
		here := *last
		here.At = a.changes.past(key, last.At)
		last = &here
	}
	to := scheduler.Scale(policy, s.Replicas, mem.wishes, last, mem.began, now)
	if to == s.Replicas {
		return
	}
	cause := scheduler.ScaleCause(why)
	_, err := a.n.propose(ctx, state.Autoscale{Job: j.Name, Service: s.Name, From: s.Replicas, To: to, Cause: cause, At: a.n.wall()})
	if err != nil {
		a.n.log.Info("not scaled", "job", j.Name, "service", s.Name, "from", s.Replicas, "to", to, "error", err)
		return
	}
	a.n.log.Info("scaled", "job", j.Name, "service", s.Name, "from", s.Replicas, "to", to, "cause", cause)
}

func (m *scaled) wish(w scheduler.Wish, keep time.Duration) {
	m.wishes = append(m.wishes, w)
	for len(m.wishes) > maxScaleWishes || len(m.wishes) > 1 && w.At.Sub(m.wishes[0].At) > keep {
		m.wishes = m.wishes[1:]
	}
}

// figuresOf turns a sample and those before it into figures. CPU is unknown until there are two samples.
func (a *autoscaler) figuresOf(s api.Sample, window time.Duration) scheduler.Figures {
	mem := a.tasks[s.Task]
	if mem == nil {
		mem = &sampled{}
		a.tasks[s.Task] = mem
	}
	mem.seen = true
	if n := len(mem.past); n > 0 && (s.CPU < mem.past[n-1].CPU || s.Up <= mem.past[n-1].Up) {
		mem.past = nil // it or its machine was started anew
	}
	mem.past = append(mem.past, s)
	for len(mem.past) > maxSampleHistory || len(mem.past) > 2 && s.Up-mem.past[1].Up >= window {
		mem.past = mem.past[1:]
	}
	f := scheduler.Figures{CPU: math.NaN(), Memory: float64(s.MemoryBytes)}
	if first := mem.past[0]; s.Up > first.Up {
		f.CPU = float64(s.CPU-first.CPU) / float64(s.Up-first.Up)
	}
	for _, m := range s.Metrics {
		v := math.NaN()
		if m != nil {
			v = *m
		}
		f.Metrics = append(f.Metrics, v)
	}
	return f
}

// sampleClock is how long the agent has run, of which only differences count; with a new agent the history begins anew.
func (n *Node) sampleClock() time.Duration { return time.Since(n.begun) }

// Sample gives live figures of tasks that run here.
func (n *Node) Sample(ctx context.Context, r api.SampleRequest) (api.SampleResult, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	res := api.SampleResult{Samples: []api.Sample{}}
	slots := make(chan struct{}, scrapesAtOnce)
	for _, t := range r.Tasks {
		c, ok := n.rec.Container(t.Task)
		if !ok {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			s, err := n.sampleTask(ctx, t, c)
			if err != nil {
				return // it ended meanwhile: then it has no figures
			}
			mu.Lock()
			defer mu.Unlock()
			res.Samples = append(res.Samples, s)
		})
	}
	wg.Wait()
	return res, nil
}

func (n *Node) sampleTask(ctx context.Context, t api.SampleTask, c runtime.ID) (api.Sample, error) {
	st, err := n.machine.Runtime.Stats(ctx, c)
	if err != nil {
		return api.Sample{}, err
	}
	s := api.Sample{Task: t.Task, Up: n.sampleClock(), CPU: st.CPU, MemoryBytes: st.MemoryBytes}
	if len(t.Metrics) == 0 {
		return s, nil
	}
	info, err := n.machine.Runtime.Inspect(ctx, c)
	if err != nil {
		return api.Sample{}, err
	}
	values, err := scrape(ctx, info.Address, t.Metrics)
	if err != nil {
		s.MetricsError = err.Error()
	}
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			s.Metrics = append(s.Metrics, nil)
			continue
		}
		s.Metrics = append(s.Metrics, &v)
	}
	return s, nil
}

// scrape asks a container for metrics, once for each port and path. What could not be had is NaN; the error is the last.
func scrape(ctx context.Context, at netip.Addr, metrics []job.Metric) (values []float64, last error) {
	if !at.IsValid() { // it shares its machine's network
		at = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	values = make([]float64, len(metrics))
	done := map[string]bool{}
	for i := range values {
		values[i] = math.NaN()
	}
	for _, m := range metrics {
		url := metricsURL(at, m)
		if done[url] {
			continue
		}
		done[url] = true
		var asked []job.Metric
		var where []int
		for i, o := range metrics {
			if metricsURL(at, o) == url {
				asked, where = append(asked, o), append(where, i)
			}
		}
		got, err := scrapeOne(ctx, url, asked)
		if err != nil {
			last = err
			continue
		}
		for i, v := range got {
			if values[where[i]] = v; math.IsNaN(v) {
				last = fmt.Errorf("%s has no %s with such labels", url, asked[i].Name)
			}
		}
	}
	return values, last
}

func metricsURL(at netip.Addr, m job.Metric) string {
	path := m.Path
	if path == "" {
		path = "/metrics"
	}
	return "http://" + net.JoinHostPort(at.String(), strconv.Itoa(int(m.Port))) + path
}

// scraper follows no redirect: a task is asked about itself and nothing else.
var scraper = &http.Client{
	Timeout:       scrapeTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
}

func scrapeOne(ctx context.Context, url string, asked []job.Metric) ([]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	resp, err := scraper.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered with status %d", url, resp.StatusCode)
	}
	return readMetrics(resp.Body, asked)
}
