package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

var startGroup = group{
	name: "start",
	how: "a task whose program is busybox adjtimex, a static program that does nothing but print the wall clock in microseconds: that is the first " +
		"instruction, give or take its own exec. Create begins where the task's own timeline says pulling, which is when the node takes it up " +
		"(the image is there). One machine, one task at a time, containers unlike anything else on it.",
	run: func(b *bench) error { return b.withCluster(1, measureStart) },
}

func measureStart(c *cluster) error {
	first := &series{name: "create+start -> first instruction", unit: Millis}
	running := &series{name: "placed -> running, the task's timeline", unit: Millis}
	all := &series{name: "submit -> first instruction", unit: Millis}
	if err := c.loadImage(); err != nil {
		return err
	}
	m := c.net.Machines()[0]
	for i := range c.samples + 1 {
		t, err := c.startOne(m, fmt.Sprintf("start%d", i))
		if err != nil {
			return err
		}
		if i == 0 {
			continue // it warms up
		}
		at := t.task.Status.At
		first.took(t.first.Sub(at[job.Pulling]))
		running.took(at[job.Running].Sub(t.task.Placed))
		all.took(t.first.Sub(t.submitted))
	}
	return c.keep("start", first, running, all)
}

// started is one task that told the time.
type started struct {
	task             api.Task
	submitted, first time.Time
}

func (c *cluster) startOne(m *machines.Machine, name string) (started, error) {
	cl := m.Client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	spec := job.Spec{Name: name, Services: []job.Service{{
		Name: "s", Replicas: 1, Image: testImage, Command: []string{"adjtimex"}, Restart: job.Restart{Policy: job.RestartNever},
	}}}
	out := started{submitted: time.Now()}
	if _, err := cl.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: spec}); err != nil {
		return out, err
	}
	err := c.await("the task of "+name+" to end", func() bool {
		list, err := cl.Tasks(ctx, api.TaskQuery{Job: name, All: true})
		if err != nil || len(list.Tasks) == 0 {
			return false
		}
		out.task = list.Tasks[0]
		return out.task.State().Terminal()
	})
	if err != nil {
		return out, err
	}
	if out.first, err = firstInstruction(ctx, cl, string(out.task.ID)); err != nil {
		return out, err
	}
	return out, c.remove(m, name)
}

func firstInstruction(ctx context.Context, cl *api.Client, task string) (time.Time, error) {
	var text string
	err := cl.Logs(ctx, task, api.LogQuery{}, func(r api.LogRecord) error {
		text += r.Text + "\n"
		return nil
	})
	if err != nil {
		return time.Time{}, err
	}
	if clocks := parseClocks(text); len(clocks) == 1 {
		return clocks[0], nil
	}
	return time.Time{}, fmt.Errorf("the container printed no time: %q", text)
}

var clockLines = regexp.MustCompile(`time\.tv_sec:\s+(\d+)\s+time\.tv_usec:\s+(\d+)`)

// parseClocks reads what busybox adjtimex prints, once or more often.
func parseClocks(text string) []time.Time {
	var out []time.Time
	for _, m := range clockLines.FindAllStringSubmatch(text, -1) {
		sec, err1 := strconv.ParseInt(m[1], 10, 64)
		usec, err2 := strconv.ParseInt(m[2], 10, 64)
		if err1 == nil && err2 == nil {
			out = append(out, time.Unix(sec, usec*1000))
		}
	}
	return out
}
