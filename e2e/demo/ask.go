package main

import (
	"context"
	"fmt"
	"time"

	"shoal/e2e/machines"
	"shoal/node/api"
)

// await polls until cond holds, the demo is ended, or patience is.
func (p *play) await(what string, cond func() bool) error {
	for end := time.Now().Add(patience); !cond(); {
		select {
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s; the agents' logs are %s/m*/agent.log", patience, what, p.net.Dir())
		}
	}
	return nil
}

func (p *play) awaitReady(m *machines.Machine) error {
	ended := false
	err := p.await("the agent of "+m.Name, func() bool {
		ended = !m.Running()
		return ended || m.Ready()
	})
	if ended && err == nil {
		err = fmt.Errorf("the agent of %s ended; the end of its log:\n%s", m.Name, tail(m.LogPath()))
	}
	return err
}

// anyClient asks a machine that is on.
func (p *play) anyClient() (*api.Client, error) {
	for _, m := range p.net.Machines() {
		if m.Running() {
			return m.Client(), nil
		}
	}
	return nil, fmt.Errorf("no machine's agent runs")
}

func (p *play) nodes() ([]api.NodeView, error) {
	c, err := p.anyClient()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	list, err := c.Nodes(ctx)
	return list.Nodes, err
}

func (p *play) tasks() ([]api.Task, error) {
	c, err := p.anyClient()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	list, err := c.Tasks(ctx, api.TaskQuery{Job: jobName})
	return list.Tasks, err
}

func (p *play) machine(name string) *machines.Machine {
	for _, m := range p.net.Machines() {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// otherThan is a machine that runs and is not m, the next one in the row.
func (p *play) otherThan(m *machines.Machine) *machines.Machine {
	all := p.net.Machines()
	at := 0
	for i := range all {
		if all[i] == m {
			at = i
		}
	}
	for i := 1; i < len(all); i++ {
		if o := all[(at+i)%len(all)]; o.Running() {
			return o
		}
	}
	return nil
}
