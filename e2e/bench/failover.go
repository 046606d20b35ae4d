package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

const failoverMachines = 5

var failoverGroup = group{
	name: "failover",
	how: "five machines with one task each; one loses its cable and all of its processes at once. Until an answer of a survivor, asked each 5 ms, says " +
		"that the lost task's successor runs; the parts are taken from the timeline of that task. The image is present; no health check.",
	run: func(b *bench) error {
		return errors.Join(b.failovers("a worker"), b.failovers(leadersMachine))
	},
}

// failoverRound is how many machines of one cluster are lost: after a third loss within minutes a machine counts as
// flapping and gets no tasks.
const failoverRound = 8

const leadersMachine = "the leader's machine"

// failovers measures the loss of machines of one kind.
func (b *bench) failovers(victim string) error {
	falls, err := b.earlier(victim)
	if err != nil {
		return err
	}
	b.progress("power-off of %s; %d earlier runs", victim, len(falls))
	for left := b.samples; left > 0; left -= failoverRound {
		err := b.withCluster(failoverMachines, func(c *cluster) error {
			if err := c.loadImage(); err != nil {
				return err
			}
			for i := range min(left, failoverRound) {
				f, err := c.failover(fmt.Sprintf("failover%d", i), victim == leadersMachine)
				if err != nil {
					return err
				}
				f.Victim = victim
				if err := c.note(f); err != nil {
					return err
				}
				falls = append(falls, f)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	all := &series{name: "power-off of " + victim + " -> replacement running", unit: Seconds, goal: &Goal{Bound: 5}, later: &Goal{Bound: 2}}
	worst := &series{name: "  99th percentile of it", unit: Seconds, later: &Goal{Bound: 3}}
	detect := &series{name: "  of it: detect, until its node is down", unit: Seconds}
	decide := &series{name: "  of it: commit and decide, until the successor is planned", unit: Millis}
	feed := &series{name: "  of it: commit and feed, until its node begins", unit: Millis}
	begin := &series{name: "  of it: start, until the successor runs", unit: Millis}
	tell := &series{name: "  of it: report, until a survivor says so", unit: Millis}
	for _, f := range falls {
		all.took(f.Total)
		detect.took(f.Detect)
		decide.took(f.Decide)
		feed.took(f.Feed)
		begin.took(f.Begin)
		tell.took(f.Tell)
	}
	worst.add(percentile(slices.Sorted(slices.Values(all.samples)), 99))
	return b.keep("failover", all, worst, detect, decide, feed, begin, tell)
}

// fall is one power-off and what followed.
type fall struct {
	Victim                                   string
	Total, Detect, Decide, Feed, Begin, Tell time.Duration
}

// earlier reads the runs that the file of -raw has of such victims.
func (b *bench) earlier(victim string) (out []fall, err error) {
	if b.raw == "" {
		return nil, nil
	}
	text, err := os.ReadFile(b.raw)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for d := json.NewDecoder(bytes.NewReader(text)); err == nil; {
		var f fall
		if err = d.Decode(&f); err == nil && f.Victim == victim {
			out = append(out, f)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return out, err
}

// note adds a run to the file of -raw.
func (b *bench) note(f fall) error {
	if b.raw == "" {
		return nil
	}
	line, err := json.Marshal(f)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(b.raw, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(append(line, '\n'))
	return errors.Join(err, file.Close())
}

func (c *cluster) failover(name string, leader bool) (fall, error) {
	var f fall
	lead := c.net.Leader()
	if lead == nil {
		return f, errors.New("no machine leads")
	}
	if _, err := c.start(lead, sleepers(name, failoverMachines)); err != nil {
		return f, err
	}
	victim, lost, err := c.victim(lead, name, leader)
	if err != nil {
		return f, err
	}
	var survivor *machines.Machine
	for _, m := range c.net.Machines() {
		if m != victim && m != lead {
			survivor = m
		}
	}
	cl := survivor.Client()
	defer cl.Close()
	off := make(chan error, 1)
	cut := time.Now()
	go func() { off <- victim.PowerOff() }()
	var next api.Task
	err = c.await("a replacement of "+lost.Name, func() bool {
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		defer cancel()
		list, err := cl.Tasks(ctx, api.TaskQuery{Job: name})
		at := slices.IndexFunc(list.Tasks, func(t api.Task) bool { return t.Slot == lost.Slot && t.ID != lost.ID && t.Ready })
		if err != nil || at < 0 {
			return false
		}
		next = list.Tasks[at]
		return true
	})
	f.Total = time.Since(cut)
	if err = errors.Join(err, <-off); err != nil {
		return f, err
	}
	if err := c.explain(&f, cl, cut, &next); err != nil {
		return f, err
	}
	return f, errors.Join(c.restore(victim), c.remove(survivor, name))
}

// victim is the machine to lose, and a task that it runs.
func (c *cluster) victim(lead *machines.Machine, name string, leader bool) (*machines.Machine, api.Task, error) {
	cl := lead.Client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	list, err := cl.Tasks(ctx, api.TaskQuery{Job: name})
	if err != nil {
		return nil, api.Task{}, err
	}
	for _, m := range c.net.Machines() {
		if (m == lead) != leader {
			continue
		}
		if at := slices.IndexFunc(list.Tasks, func(t api.Task) bool { return t.NodeName == m.Name }); at >= 0 {
			return m, list.Tasks[at], nil
		}
	}
	return nil, api.Task{}, errors.New("the machine to lose runs no task")
}

// explain takes the parts from the successor's timeline.
func (c *cluster) explain(f *fall, cl *api.Client, cut time.Time, next *api.Task) error {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	why, err := cl.Why(ctx, string(next.ID))
	if err != nil {
		return err
	}
	down := slices.IndexFunc(why.Steps, func(s api.Step) bool { return s.What == "node down" })
	if down < 0 {
		return fmt.Errorf("the timeline of %s does not say when its predecessor's node was down", next.ID)
	}
	began := next.Status.At[job.Pulling]
	if began.IsZero() {
		began = next.Status.At[job.Created]
	}
	f.Detect = why.Steps[down].At.Sub(cut)
	f.Decide = next.Placed.Sub(why.Steps[down].At)
	f.Feed = began.Sub(next.Placed)
	f.Begin = next.Status.At[job.Running].Sub(began)
	f.Tell = cut.Add(f.Total).Sub(next.Status.At[job.Running])
	return nil
}

// restore switches a machine on again and waits until the cluster is whole.
func (c *cluster) restore(m *machines.Machine) error {
	if err := m.PowerOn(); err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	if err := m.AwaitReady(patience); err != nil {
		return err
	}
	cl := m.Client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	err := c.await("all nodes to be ready", func() bool {
		list, err := cl.Nodes(ctx)
		return err == nil && !slices.ContainsFunc(list.Nodes, func(n api.NodeView) bool { return n.State != job.NodeReady || n.Gossip != "alive" })
	})
	return errors.Join(err, c.net.AwaitVoters(patience))
}
