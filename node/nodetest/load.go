package nodetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// client asks through a machine whose agent runs, as a person at its socket would; nil if there is none.
func (s *sim) client() (*api.Client, *Machine) {
	var up []*Machine
	for _, m := range s.Machines {
		if m.node != nil && m.node.Started() {
			up = append(up, m)
		}
	}
	if len(up) == 0 {
		return nil, nil
	}
	m := up[s.r.IntN(len(up))]
	return api.NewClient(m.Name, &socket{h: s.apis[m], deaf: s.r.IntN(20) == 0}), m
}

// socket hands requests to an agent in this process.
type socket struct {
	h    http.Handler
	deaf bool // the first answer is lost
}

var errDropped = errors.New("the connection broke before the answer came")

func (k *socket) RoundTrip(r *http.Request) (*http.Response, error) {
	type answer struct {
		resp *http.Response
		err  error
	}
	ch := make(chan answer, 1)
	ctx := r.Context()
	r = r.WithContext(api.WithCaller(ctx, api.Caller{Access: api.Admin, Name: "root"}))
	go func() {
		a := answer{err: errDropped}
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
			ch <- a
		}()
		rec := httptest.NewRecorder()
		k.h.ServeHTTP(rec, r)
		a = answer{resp: rec.Result()}
	}()
	select {
	case a := <-ch:
		if k.deaf {
			k.deaf = false
			return nil, errDropped
		}
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// refusal tells errors that certainly changed nothing.
func refusal(err error) bool {
	k := job.KindOf(err)
	return k == job.NotFound || k == job.Invalid || k == job.Conflict
}

// change asks for one change of a job, with retries, and notes what may have come of it.
func (s *sim) change() {
	name := fmt.Sprintf("j%d", 1+s.r.IntN(4))
	h := s.histories[name]
	if h == nil {
		h = newHistory()
		s.histories[name] = h
	}
	if h.full() {
		return
	}
	c := s.randomChange(name, h)
	s.Counts[c.kind]++
	n, key := h.begin(c), api.NewKey()
	for try := range 1 + s.r.IntN(4) {
		if try > 0 {
			s.rest(time.Duration(s.r.IntN(2000)) * time.Millisecond)
			if c.kind == "stop" || c.kind == "rm" { // they carry no key: each try is one of its own
				if h.full() {
					return
				}
				n = h.begin(c)
			}
		}
		err := s.ask(c, key)
		s.note("%v: %v", c, err)
		if err == nil || refusal(err) {
			if !h.done(n, err != nil) {
				s.fail("%v: %v: that cannot be, the job may be\n     %s", c, err, h.states())
			}
			return
		}
	}
}

func (s *sim) ask(c change, key string) error {
	client, _ := s.client()
	if client == nil {
		return errors.New("no agent runs")
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Duration(1+s.r.IntN(10))*time.Second)
	defer cancel()
	switch c.kind {
	case "submit":
		_, err := client.Submit(ctx, key, api.SubmitRequest{Spec: c.spec})
		return err
	case "scale":
		_, err := client.Scale(ctx, key, c.job, c.replicas)
		return err
	case "stop":
		return client.StopJob(ctx, c.job)
	}
	return client.RemoveJob(ctx, c.job)
}

// randomChange asks for something that makes sense for one of the states that the job may be in.
func (s *sim) randomChange(name string, h *history) change {
	var keys []string
	for w := range h.worlds {
		keys = append(keys, w.state)
	}
	slices.Sort(keys)
	is := parseState(keys[s.r.IntN(len(keys))])
	switch x := s.r.IntN(10); {
	case is == nil || x < 5:
		spec := s.randomSpec(name, is)
		return change{kind: "submit", job: name, spec: spec}
	case x < 8:
		for _, sv := range is.Services {
			if sv.Mode != job.Global {
				return change{kind: "scale", job: name, replicas: map[string]int{sv.Name: s.r.IntN(6)}}
			}
		}
		return change{kind: "stop", job: name}
	case x < 9:
		return change{kind: "stop", job: name}
	}
	return change{kind: "rm", job: name}
}

// randomSpec is a new job, or a variation of what is there.
func (s *sim) randomSpec(name string, is *jobState) job.Spec {
	spec := job.Spec{Name: name}
	if is != nil && s.r.IntN(2) == 0 { // a new version of one service
		spec.Services = slices.Clone(is.Services)
		sv := &spec.Services[s.r.IntN(len(spec.Services))]
		switch s.r.IntN(3) {
		case 0: // taken over where it runs
			sv.Labels = map[string]string{"version": fmt.Sprint(s.r.IntN(1000))}
		case 1:
			sv.Limits.MemoryBytes = int64(16+s.r.IntN(100)) << 20
		default:
			sv.Env = []string{fmt.Sprintf("VERSION=%d", s.r.IntN(1000))}
		}
	} else {
		for i := range 1 + s.r.IntN(3) {
			spec.Services = append(spec.Services, s.randomService(name, i))
		}
	}
	spec.Normalize()
	if err := spec.Validate(); err != nil {
		s.fail("the simulation made a job that is none: %v", err)
	}
	return spec
}

func (s *sim) randomService(jobName string, i int) job.Service {
	sv := job.Service{
		Name: string(rune('a' + i)), Mode: job.Replicated, Replicas: s.r.IntN(6), Image: []string{"web:1", "web:2", "slow:1"}[s.r.IntN(3)],
		Reservations: job.Resources{NanoCPUs: int64(s.r.IntN(3)) * 250e6},
	}
	if s.r.IntN(4) == 0 {
		sv.Mode, sv.Replicas = job.Global, 0
	}
	if s.r.IntN(4) == 0 { // deaf to SIGTERM
		sv.Command, sv.StopGrace = []string{"sleep", "infinity"}, 2*time.Second
	}
	switch s.r.IntN(8) {
	case 0:
		sv.Restart.Policy = job.RestartNever
	case 1:
		sv.Restart.Policy = job.RestartOnFailure
	}
	switch s.r.IntN(8) {
	case 0:
		sv.Constraints = []job.Constraint{{Key: "node.labels.zone", Op: "==", Value: "a"}}
	case 1:
		sv.Constraints = []job.Constraint{{Key: "node.hostname", Op: "!=", Value: "m1"}}
	}
	if s.r.IntN(6) == 0 {
		sv.Ports = []job.Port{{Published: uint16(8000 + 10*int(jobName[1]-'0') + i), Target: 80, Protocol: "tcp"}}
	}
	if s.r.IntN(6) == 0 {
		sv.Health = &job.Health{Test: []string{"CMD", "check"}, Interval: 2 * time.Second, Timeout: time.Second, Retries: 2}
	}
	if i > 0 && s.r.IntN(4) == 0 {
		sv.DependsOn = []job.Dependency{{Service: "a", Condition: job.DependStarted}}
	}
	if sv.Mode == job.Replicated && s.extra.IntN(4) == 0 {
		sv.Failover = &job.Failover{Mode: job.FailoverFenced, Lease: time.Duration(3+s.extra.IntN(5)) * time.Second}
	}
	// What fails here is the simulation's doing and goes on: a rollback would be a change that nobody asked for.
	sv.Update = &job.Update{
		Parallelism: s.r.IntN(4), Monitor: time.Duration(1+s.r.IntN(4)) * time.Second, Failure: job.FailContinue,
		Order: []job.UpdateOrder{job.OrderAuto, job.OrderAuto, job.StopFirst}[s.r.IntN(3)],
	}
	return sv
}
