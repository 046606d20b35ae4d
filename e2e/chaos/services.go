package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// The services that run during all faults.
const (
	jobWeb    = "web"    // replicas that do nothing, replaced as soon as their node is down
	jobLines  = "lines"  // one on each node, writes numbered lines
	jobFenced = "fenced" // one writer to a record outside of all machines
	jobBatch  = "batch"  // runs that complete
)

const (
	webReplicas = 5
	fencedLease = 4 * time.Second
)

// recordPath is where the fenced writers write.
func (w *World) recordPath() string { return filepath.Join(w.Scratch, "record") }

// services are the specs of what runs.
func (w *World) services() []job.Spec {
	stay := false // who compares processes must not find one that was moved to a machine that returned
	quick := job.Service{Image: Image, StopSignal: "SIGKILL", Drain: job.NoDrain, Rebalance: &stay}
	web, lines, fenced, batch := quick, quick, quick, quick
	web.Name, web.Replicas, web.Command = "s", webReplicas, []string{"sleep", "1000000"}
	web.Failover = &job.Failover{Mode: job.FailoverFast}
	lines.Name, lines.Mode = "s", job.Global
	lines.Ports = []job.Port{{Published: 8080, Target: 80, Protocol: "tcp"}} // rules that must go with it
	lines.Command = []string{"sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.25; done"}
	fenced.Name, fenced.Replicas = "s", 1
	fenced.Command = []string{"sh", "-c", "while :; do echo $SHOAL_FENCING_TOKEN $SHOAL_TASK >> /record; sleep 0.1; done"}
	fenced.Failover = &job.Failover{Mode: job.FailoverFenced, Lease: fencedLease}
	fenced.Mounts = []job.Mount{{Type: job.MountBind, Source: w.recordPath(), Target: "/record"}}
	batch.Name, batch.Mode, batch.Replicas = "s", job.ReplicatedJob, 2
	batch.Command = []string{"sh", "-c", "sleep 0.2"}
	batch.Restart.Policy = job.RestartNever
	return []job.Spec{
		{Name: jobWeb, Services: []job.Service{web}},
		{Name: jobLines, Services: []job.Service{lines}},
		{Name: jobFenced, Services: []job.Service{fenced}},
		{Name: jobBatch, Services: []job.Service{batch}},
	}
}

// startServices submits all and waits until they run.
func (w *World) startServices(ctx context.Context) error {
	if err := os.WriteFile(w.recordPath(), nil, 0o666); err != nil {
		return err
	}
	for _, spec := range w.services() {
		err := w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
			_, err := c.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: spec})
			return err
		})
		if err != nil {
			return fmt.Errorf("submit %s: %w", spec.Name, err)
		}
	}
	_, err := w.awaitSettled(ctx, patience)
	return err
}

// awaitSettled waits until all runs that was asked for, and tells when that was first seen.
func (w *World) awaitSettled(ctx context.Context, limit time.Duration) (time.Time, error) {
	w.missing = nil
	begun := time.Now()
	for end := begun.Add(limit); ; {
		err := w.settled(ctx)
		if err == nil {
			return time.Now(), nil
		}
		w.missing.note(time.Since(begun), err)
		if time.Now().After(end) {
			return time.Now(), fmt.Errorf("after %v: %w", limit, err)
		}
		if err := Sleep(ctx, 100*time.Millisecond); err != nil {
			return time.Now(), err
		}
	}
}

// missed is what was missing in turn, the same again not counted, each with since when; the last ones only.
type missed []lack

type lack struct {
	after time.Duration
	what  string
}

const mostMissed = 50

func (m *missed) note(after time.Duration, err error) {
	n := len(*m)
	if n > 0 && (*m)[n-1].what == err.Error() {
		return
	}
	*m = append((*m)[max(0, n+1-mostMissed):], lack{after, err.Error()}) // two may take turns
}

// askedFor is how long one machine may take to say what is; another one is asked then.
const askedFor = 2 * time.Second

// settled tells what of all that was asked for does not run. The log's word and the kernel's must agree.
func (w *World) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	all := w.Machines()
	for _, m := range all {
		s, err := w.status(m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		if !s.Ready {
			return fmt.Errorf("%s is not ready: %s", m.Name, s.Message)
		}
	}
	var nodes api.NodeList
	var tasks api.TaskList
	err := w.Ask(ctx, func(ctx context.Context, c *api.Client) (err error) {
		ctx, cancel := context.WithTimeout(ctx, askedFor)
		defer cancel()
		if nodes, err = c.Nodes(ctx); err != nil {
			return err
		}
		if tasks, err = c.Tasks(ctx, api.TaskQuery{}); err == nil && (tasks.Stale || nodes.Stale) {
			err = fmt.Errorf("no leader confirms what is known")
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := allReady(nodes, all); err != nil {
		return err
	}
	return asAsked(tasks, census(all), len(all))
}

// allReady tells which machine has no node that is ready.
func allReady(list api.NodeList, all []*machines.Machine) error {
	ready := map[string]bool{}
	for _, n := range list.Nodes {
		if n.State == job.NodeReady {
			ready[n.Name] = true
		}
	}
	for _, m := range all {
		if !ready[m.Name] {
			return fmt.Errorf("node %s is not ready in the log", m.Name)
		}
	}
	return nil
}

// asAsked compares the log's tasks of the services with what was asked for and with the live containers.
func asAsked(list api.TaskList, live []container, nodes int) error {
	runs := map[string]container{}
	for _, c := range live {
		if other, twice := runs[c.Task]; twice {
			return fmt.Errorf("%v runs a second time: %v", other, c)
		}
		runs[c.Task] = c
	}
	want := map[string]int{jobWeb: webReplicas, jobLines: nodes, jobFenced: 1}
	got := map[string]int{}
	slots := map[string]bool{}
	for _, t := range list.Tasks {
		if want[t.Job] == 0 {
			delete(runs, string(t.ID)) // a batch's run
			continue
		}
		slot := fmt.Sprintf("%s %d %s", t.Job, t.Slot, map[bool]string{true: string(t.Node)}[t.Slot == 0])
		c, lives := runs[string(t.ID)]
		switch {
		case t.Desired != job.DesiredRun:
			return fmt.Errorf("%s/%s (%s) on %s is not meant to run any more and is %s", t.Job, t.Name, t.ID, t.NodeName, t.State())
		case slots[slot]:
			return fmt.Errorf("%s/%s (%s): its slot has another one too", t.Job, t.Name, t.ID)
		case !t.Ready:
			return fmt.Errorf("%s/%s (%s) on %s is %s%s", t.Job, t.Name, t.ID, t.NodeName, t.State(), said(&t))
		case !lives:
			return fmt.Errorf("%s/%s (%s) on %s is said to run and does not", t.Job, t.Name, t.ID, t.NodeName)
		case c.Machine != t.NodeName:
			return fmt.Errorf("%s/%s (%s) is said to run on %s and runs on %s", t.Job, t.Name, t.ID, t.NodeName, c.Machine)
		}
		slots[slot] = true
		got[t.Job]++
		delete(runs, string(t.ID))
	}
	for name, n := range want {
		if got[name] != n {
			return fmt.Errorf("%d tasks of %s run, want %d", got[name], name, n)
		}
	}
	for _, c := range runs {
		if want[c.Job] > 0 {
			return fmt.Errorf("%v runs and the log does not know it", c)
		}
	}
	return nil
}

// said is what a task's status says beside its state.
func said(t *api.Task) string {
	if t.Status == nil || t.Status.Message == "" {
		return ""
	}
	return ": " + t.Status.Message
}

// desired are the tasks of the services that the log wants to run.
func (w *World) desired(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	err := w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
		list, err := c.Tasks(ctx, api.TaskQuery{})
		if err == nil && list.Stale {
			err = fmt.Errorf("no leader confirms it")
		}
		for _, t := range list.Tasks {
			if t.Desired == job.DesiredRun {
				out[string(t.ID)] = true
			}
		}
		return err
	})
	return out, err
}

// isService tells whether a job is one of those that run during all faults and whose tasks are meant to run on.
func isService(name string) bool {
	return strings.Contains(" "+jobWeb+" "+jobLines+" "+jobFenced+" ", " "+name+" ")
}
