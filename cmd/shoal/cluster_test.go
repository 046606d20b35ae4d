package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// cluster is a small working model of what an agent answers, behind a real unix socket and the real server.
type cluster struct {
	api.Backend // what the tests do not script is nil

	mu       sync.Mutex
	index    uint64
	changed  chan struct{}
	jobs     map[string]*job.Job
	tasks    []api.Task
	blocked  []job.Blocked
	rollouts []job.Rollout
	logs     map[job.TaskID][]api.LogRecord
	logErrs  map[job.TaskID]error
	stall    int      // who follows a log gets so many records and no more; 0: all
	keys     []string // of the submits that came
	refuse   int      // that many submits fail because there is no leader
	leader   bool
	nodes    []api.NodeView // the model itself is n1; others do not answer
	onWait   func()         // called once, when somebody waits for news of tasks
	onSubmit func(*cluster, *job.Job)
	onExec   func(*api.ExecSession) (int, error)
	onAttach func(*api.Streams) (int, error)
}

func newCluster() *cluster {
	return &cluster{index: 10, changed: make(chan struct{}), jobs: map[string]*job.Job{}, logs: map[job.TaskID][]api.LogRecord{}, logErrs: map[job.TaskID]error{}, leader: true}
}

// change alters the model and wakes who waits.
func (cl *cluster) change(do func()) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	do()
	cl.index++
	close(cl.changed)
	cl.changed = make(chan struct{})
}

func (cl *cluster) Leader() (string, job.NodeID, bool, bool) { return "", "n1", cl.leader, cl.leader }
func (cl *cluster) Owner(context.Context, string) (string, job.NodeID, bool, error) {
	return "", "n1", true, nil
}
func (cl *cluster) HasState() bool                { return true }
func (cl *cluster) Holder() string                { return "" }
func (cl *cluster) Confirm(context.Context) error { return nil }
func (cl *cluster) Tokens(context.Context) ([]job.Token, error) {
	return nil, nil
}
func (cl *cluster) Events(context.Context, api.EventQuery, func(job.Event) error) error {
	return nil
}
func (cl *cluster) Transport() http.RoundTripper { return nil }

func (cl *cluster) Status(context.Context) (api.Status, error) {
	return api.Status{Name: "a", Node: "n1", Ready: cl.leader, Message: "no leader is known"}, nil
}

func (cl *cluster) Job(_ context.Context, name string, _ bool) (api.JobDetail, error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	j := cl.jobs[name]
	if j == nil {
		return api.JobDetail{}, job.Errorf(job.NotFound, "job %q: there is none", name)
	}
	return api.JobDetail{Job: *j}, nil
}

func (cl *cluster) Submit(_ context.Context, key string, r api.SubmitRequest) (api.SubmitResult, error) {
	if r.DryRun {
		return api.SubmitResult{Job: job.Job{Name: r.Spec.Name, Spec: r.Spec}}, nil
	}
	var out api.SubmitResult
	var err error
	cl.change(func() {
		cl.keys = append(cl.keys, key)
		if cl.refuse > 0 {
			cl.refuse--
			err = job.Errorf(job.Unavailable, "no leader is known")
			return
		}
		j := &job.Job{Name: r.Spec.Name, Version: 1, Spec: r.Spec}
		if old := cl.jobs[j.Name]; old != nil {
			j.Version = old.Version + 1
		}
		cl.jobs[j.Name] = j
		if cl.onSubmit != nil {
			cl.onSubmit(cl, j)
		}
		out = api.SubmitResult{Job: *j, Index: cl.index + 1}
	})
	return out, err
}

func (cl *cluster) RemoveJob(_ context.Context, name string) error {
	cl.change(func() {
		delete(cl.jobs, name)
		for i := range cl.tasks {
			cl.tasks[i].Desired = job.DesiredStop
		}
	})
	time.AfterFunc(20*time.Millisecond, func() { cl.change(func() { cl.tasks = nil }) })
	return nil
}

func (cl *cluster) Tasks(ctx context.Context, q api.TaskQuery) (api.TaskList, error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	late := time.After(q.Wait)
	if q.Wait > 0 && cl.onWait != nil {
		go cl.onWait()
		cl.onWait = nil
	}
	for waiting := q.Wait > 0; waiting && cl.index <= q.After; {
		changed := cl.changed
		cl.mu.Unlock()
		select {
		case <-changed:
		case <-late:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
		cl.mu.Lock()
	}
	list := api.TaskList{Meta: api.Meta{Index: cl.index}, Tasks: []api.Task{}, Blocked: cl.blocked, Rollouts: cl.rollouts}
	for _, j := range cl.jobs {
		for _, s := range j.Spec.Services {
			list.Want += s.Replicas
		}
	}
	for _, t := range cl.tasks {
		if q.Job != "" && t.Job != q.Job {
			continue
		}
		list.Tasks = append(list.Tasks, t)
		if t.Ready {
			list.Ready++
		}
	}
	if q.Job != "" && cl.jobs[q.Job] == nil && len(list.Tasks) == 0 {
		return list, job.Errorf(job.NotFound, "job %q: there is none", q.Job)
	}
	return list, nil
}

func (cl *cluster) Task(_ context.Context, id string) (api.Task, error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for _, t := range cl.tasks {
		if string(t.ID) == id {
			return t, nil
		}
	}
	return api.Task{}, job.Errorf(job.NotFound, "task %s: there is none", id)
}

func (cl *cluster) Logs(ctx context.Context, task string, q api.LogQuery, emit func(api.LogRecord) error) error {
	for sent := 0; ; {
		cl.mu.Lock()
		records, changed, err := cl.logs[job.TaskID(task)], cl.changed, cl.logErrs[job.TaskID(task)]
		if q.Follow && cl.stall > 0 {
			records = records[:min(cl.stall, len(records))]
		}
		cl.mu.Unlock()
		if err != nil {
			return err
		}
		if q.Tail != 0 { // as many of the last, -1: none; all that comes later
			sent, q.Tail = max(0, len(records)-max(q.Tail, 0)), 0
		}
		for ; sent < len(records); sent++ {
			if records[sent].Time.Before(q.Since) {
				continue
			}
			if err := emit(records[sent]); err != nil {
				return err
			}
		}
		if !q.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (cl *cluster) Nodes(context.Context) (api.NodeList, error) {
	return api.NodeList{Nodes: cl.nodes}, nil
}

func (cl *cluster) NodeAddr(_ context.Context, ref string) (string, bool, error) {
	if ref == "n1" {
		return "", true, nil
	}
	return "", false, job.Errorf(job.Unavailable, "%s does not answer", ref)
}

func (cl *cluster) DiskUsage(context.Context) (api.DiskUsage, error) {
	return api.DiskUsage{Node: "a", Parts: []api.DiskPart{{Kind: "images", Size: 1}}}, nil
}

func (cl *cluster) PruneImages(context.Context, api.PruneRequest) (api.PruneResult, error) {
	return api.PruneResult{Blobs: 7}, nil
}

func (cl *cluster) VerifyImages(context.Context, api.VerifyRequest) (api.VerifyResult, error) {
	return api.VerifyResult{Blobs: 7}, nil
}

func (cl *cluster) Chaos(context.Context) (api.ChaosStatus, error) {
	return api.ChaosStatus{Node: "n1", Policy: "allow"}, nil
}

func (cl *cluster) CreateToken(context.Context, api.TokenRequest) (api.TokenCreated, error) {
	return api.TokenCreated{Join: "shoal agent --token secret"}, nil
}

func (cl *cluster) Exec(_ context.Context, _ string, s *api.ExecSession) (int, error) {
	return cl.onExec(s)
}

func (cl *cluster) Attach(_ context.Context, _ string, _ api.AttachRequest, st *api.Streams) (int, error) {
	return cl.onAttach(st)
}

// serve gives the socket at which the model answers.
func (cl *cluster) serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(admin(api.NewServer(cl, nil, slog.New(slog.DiscardHandler))))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.CloseClientConnections)
	t.Cleanup(srv.Close)
	return path
}

func admin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(api.WithCaller(r.Context(), api.Caller{Access: api.Admin})))
	})
}

// output can be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// shoal runs a command line as a person would.
func shoal(t *testing.T, socket, line string) (code int, stdout, stderr string) {
	t.Helper()
	return shoalIn(t, t.Context(), socket, "", line)
}

func shoalIn(t *testing.T, ctx context.Context, socket, stdin, line string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs output
	code = run(ctx, append([]string{"shoal", "--host", socket}, strings.Fields(line)...), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// task makes one of the job web.
func task(id, service string, slot int, digest job.Digest, st *job.Status) api.Task {
	t := api.Task{Task: job.Task{ID: job.TaskID(id), Job: "web", Service: service, Slot: slot, Digest: digest, Node: "n1", Desired: job.DesiredRun}, NodeName: "a", NodeState: job.NodeReady, Status: st}
	t.Task.Index = 1
	t.Name = t.Task.Name()
	t.Ready = st.Ready()
	return t
}

// place puts a task of every slot of a job into the model, in the given status.
func place(cl *cluster, j *job.Job, st *job.Status) {
	cl.tasks = nil
	for i := range j.Spec.Services {
		s := &j.Spec.Services[i]
		for slot := 1; slot <= s.Replicas; slot++ {
			cl.tasks = append(cl.tasks, task("task"+s.Name+string(rune('0'+slot)), s.Name, slot, s.Digest(), st))
		}
	}
}
