package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

const (
	testImage = "bench/busybox"
	patience  = 60 * time.Second
)

// cluster is machines with one cluster on them.
type cluster struct {
	*bench
	net *machines.Net
}

// withCluster makes a cluster for the time of f.
func (b *bench) withCluster(count int, f func(*cluster) error) error {
	return b.withMachines(count, machines.MachineOptions{}, f)
}

// withMachines is withCluster of machines with wishes.
func (b *bench) withMachines(count int, o machines.MachineOptions, f func(*cluster) error) (err error) {
	n, err := machines.New(machines.Options{Binary: b.binary, LogLevel: "warn"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close(), n.Gone()) }()
	if err := n.Form(count, o); err != nil {
		return err
	}
	return f(&cluster{b, n})
}

// loadImage puts the image on every machine: how it travels is no part of these figures.
func (c *cluster) loadImage() error {
	archive, err := machines.Busybox(testImage)
	if err != nil {
		return err
	}
	for _, m := range c.net.Machines() {
		if err := m.LoadImage(archive); err != nil {
			return err
		}
	}
	return nil
}

// sleepers is a job whose tasks do nothing and end at once when told to.
func sleepers(name string, replicas int) job.Spec {
	return job.Spec{Name: name, Services: []job.Service{{
		Name: "s", Replicas: replicas, Image: testImage, Command: []string{"sleep", "1000000"}, StopSignal: "SIGKILL",
	}}}
}

// start submits a job and waits until all of it is ready; it tells how long that took.
func (c *cluster) start(m *machines.Machine, spec job.Spec) (time.Duration, error) {
	cl := m.Client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	if _, err := cl.Status(ctx); err != nil { // the connection is no part of it
		return 0, err
	}
	begun := time.Now()
	r, err := cl.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: spec})
	if err != nil {
		return 0, err
	}
	q := api.TaskQuery{Job: spec.Name, Wait: time.Second}
	for {
		list, err := cl.Tasks(ctx, q)
		if err != nil {
			return 0, fmt.Errorf("wait for job %s: %w", spec.Name, err)
		}
		if list.Index >= r.Index && list.Want > 0 && list.Ready == list.Want {
			return time.Since(begun), nil
		}
		if len(list.Blocked) > 0 {
			return 0, fmt.Errorf("job %s: %s", spec.Name, list.Blocked[0].Reason)
		}
		q.After = list.Index
	}
}

// remove removes a job and waits until it is gone with its last task.
func (c *cluster) remove(m *machines.Machine, name string) error {
	cl := m.Client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	if err := cl.RemoveJob(ctx, name); err != nil {
		return err
	}
	return c.await("job "+name+" to be gone", func() bool {
		_, err := cl.Tasks(ctx, api.TaskQuery{Job: name, All: true})
		return job.KindOf(err) == job.NotFound
	})
}

// await polls until cond holds.
func (b *bench) await(what string, cond func() bool) error {
	for end := time.Now().Add(patience); !cond(); {
		if err := b.pause(5 * time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s", patience, what)
		}
	}
	return nil
}

func (b *bench) pause(d time.Duration) error {
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(d):
		return nil
	}
}
