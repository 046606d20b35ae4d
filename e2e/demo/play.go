package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

const (
	machineCount = 3
	jobName      = "web"
	replicas     = 3
	patience     = 45 * time.Second // with any one thing; many times what it takes
)

// play is one performance.
type play struct {
	*stage
	ctx     context.Context
	binary  string
	compose string
	net     *machines.Net

	lost      *machines.Machine // whose power was cut
	lostTasks []api.Task        // that ran there
	reborn    []api.Task        // what replaced them
	recovery  time.Duration
}

// perform shows everything and cleans up, unless it shall keep the cluster and all went well.
func perform(ctx context.Context, s *stage, binary, compose string, keep bool) (err error) {
	s.title("shoal: three machines, one binary, one Compose file, and a power cut")
	showBinary(s, binary)
	dir, err := newDir()
	if err != nil {
		return err
	}
	defer dir.unlock()
	net, err := machines.New(machines.Options{Binary: binary, Dir: dir.path, Keep: keep})
	if err != nil {
		return errors.Join(err, dir.remove())
	}
	p := &play{stage: s, ctx: ctx, binary: binary, compose: compose, net: net}
	defer func() {
		if keep && err == nil {
			err = p.leaveUp()
			return
		}
		err = errors.Join(err, p.cleanUp(dir, err != nil))
	}()
	for _, scene := range []func() error{p.makeMachines, p.formCluster, p.runService, p.ask, p.cutPower, p.explain, p.bringBack} {
		if err := scene(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	s.print("\n")
	s.tell(bold, "The leader's machine was lost, and %.2f s later all %d replicas served again. The demo took %.1f s.", p.recovery.Seconds(), replicas, time.Since(s.begun).Seconds())
	return nil
}

func showBinary(s *stage, binary string) {
	size := int64(0)
	if st, err := os.Stat(binary); err == nil {
		size = st.Size()
	}
	linked := "its linking could not be told"
	if out, err := exec.Command("ldd", binary).CombinedOutput(); strings.Contains(string(out), "not a dynamic executable") {
		linked = "ldd says: not a dynamic executable"
	} else if err == nil {
		linked = "ldd says that it is dynamic"
	}
	s.say("%s is all there is to install: %.1f MiB, %s.", binary, float64(size)/(1<<20), linked)
}

func (p *play) makeMachines() error {
	p.step("Three machines, made of namespaces and joined by a switch")
	for range machineCount {
		m, err := p.net.Add(machines.MachineOptions{})
		if err != nil {
			return err
		}
		if err := m.PowerOn(); err != nil {
			return err
		}
		if err := p.net.Save(); err != nil { // so that demo-down can clean up after a kill -9
			return err
		}
		p.say("%s  %s  a network, mounts, processes and a disk of its own", m.Name, m.Addr)
		if p.ctx.Err() != nil {
			break
		}
	}
	return nil
}

func (p *play) formCluster() error {
	all := p.net.Machines()
	p.step("A cluster: no configuration, one token")
	p.say("Each agent also gets --name, --bind, --data-dir, --socket and --cgroup-parent, for the three share this computer.")
	p.typed(all[0].Name, "shoal agent")
	if err := all[0].Start(); err != nil {
		return err
	}
	if err := p.awaitReady(all[0]); err != nil {
		return err
	}
	p.typed(all[0].Name, "shoal token create")
	r := all[0].ShoalContext(p.ctx, nil, "token", "create")
	if r.Code != 0 {
		return fmt.Errorf("shoal token create: %s", r)
	}
	join := strings.TrimSpace(r.Stdout)
	p.print(join + "\n")
	flags, ok := strings.CutPrefix(join, "shoal agent ")
	if !ok {
		return fmt.Errorf("shoal token create printed %q, which is no command to join", join)
	}
	for _, m := range all[1:] {
		p.typed(m.Name, join)
		if err := m.Start(strings.Fields(flags)...); err != nil {
			return err
		}
	}
	for _, m := range all[1:] {
		if err := p.awaitReady(m); err != nil {
			return err
		}
	}
	err := p.await("three voters", func() bool {
		list, err := p.nodes()
		return err == nil && len(list) == machineCount && !slices.ContainsFunc(list, func(n api.NodeView) bool { return n.Role != "voter" })
	})
	if err != nil {
		return err
	}
	return p.shoal(p.ctx, p.binary, all[0], "node", "ls")
}

func (p *play) runService() error {
	m := p.net.Machines()[0]
	p.step("A web service of three replicas from a Compose file")
	p.say("The image is made of shoal's own binary. It is loaded on one machine; the others fetch it from there.")
	for _, verb := range [][]string{{"image", "demo", "--load"}, {"run", "-f", p.compose}, {"ps"}} {
		if err := p.shoal(p.ctx, p.binary, m, verb...); err != nil {
			return err
		}
	}
	return nil
}

// ask asks each replica over its published port, from another machine of the network.
func (p *play) ask() error {
	p.step("Ask it, over the published ports and from another machine")
	return p.askAll()
}

func (p *play) askAll() error {
	tasks, err := p.tasks()
	if err != nil {
		return err
	}
	for i := range tasks {
		t := &tasks[i]
		if !t.Ready || len(t.Status.Ports) == 0 {
			continue
		}
		at := p.machine(t.NodeName)
		from := p.otherThan(at)
		if at == nil || from == nil {
			continue
		}
		url := fmt.Sprintf("http://%s:%d/", at.Addr, t.Status.Ports[0].Published)
		answer, err := p.get(from, url)
		if err != nil {
			return fmt.Errorf("ask %s from %s: %w", url, from.Name, err)
		}
		p.print(fmt.Sprintf("   %s asks %s %s %s\n", from.Name, url, "->", p.paint(green, answer)))
	}
	return nil
}

func (p *play) get(from *machines.Machine, url string) (string, error) {
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	c := http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return strings.TrimSpace(string(b)), err
}

func (p *play) cutPower() error {
	p.lost = p.net.Leader()
	if p.lost == nil {
		return errors.New("no machine says that it leads")
	}
	tasks, err := p.tasks()
	if err != nil {
		return err
	}
	var names []string
	for _, t := range tasks {
		if t.NodeName == p.lost.Name {
			p.lostTasks = append(p.lostTasks, t)
			names = append(names, t.Job+"/"+t.Name)
		}
	}
	if len(p.lostTasks) == 0 {
		return fmt.Errorf("%s leads but runs no replica, so its loss would show nothing; the tasks should have been spread", p.lost.Name)
	}
	p.step("Cut the power of the machine that holds the leader")
	survivor := p.otherThan(p.lost)
	off := make(chan error, 1)
	cut := time.Now()
	p.tell(yellow, "%s leads the cluster and runs %s. At %s its cable goes and all of its processes are killed.", p.lost.Name, strings.Join(names, ", "), cut.Format("15:04:05.000"))
	go func() { off <- p.lost.PowerOff() }()
	err = p.await("the lost replicas to run again", func() bool {
		p.reborn = p.replacements(survivor)
		return len(p.reborn) == len(p.lostTasks)
	})
	p.recovery = time.Since(cut)
	if err := errors.Join(err, <-off); err != nil {
		return err
	}
	for _, t := range p.reborn {
		p.tell(green, "%s/%s runs again, healthy, on %s: %.3f s after the cut", t.Job, t.Name, t.NodeName, p.recovery.Seconds())
	}
	return nil
}

// replacements are new tasks that serve in the slots that were lost.
func (p *play) replacements(survivor *machines.Machine) []api.Task {
	ctx, cancel := context.WithTimeout(p.ctx, time.Second)
	defer cancel()
	c := survivor.Client()
	defer c.Close()
	list, err := c.Tasks(ctx, api.TaskQuery{Job: jobName})
	if err != nil {
		return nil // there is no leader yet
	}
	var out []api.Task
	for _, t := range list.Tasks {
		if t.Ready && t.NodeName != p.lost.Name && slices.ContainsFunc(p.lostTasks, func(l api.Task) bool { return l.Slot == t.Slot && l.ID != t.ID }) {
			out = append(out, t)
		}
	}
	return out
}

// explain shows how the replacement came about.
func (p *play) explain() error {
	p.step("Why it runs there, step by step")
	m := p.otherThan(p.lost)
	if len(p.reborn) > 0 {
		if err := p.shoal(p.ctx, p.binary, m, "why", string(p.reborn[0].ID)); err != nil {
			return err
		}
	}
	if err := p.shoal(p.ctx, p.binary, m, "ps"); err != nil {
		return err
	}
	return p.askAll()
}

func (p *play) bringBack() error {
	p.step("Power on again: the machine returns, and each replica still runs once")
	if err := p.lost.PowerOn(); err != nil {
		return err
	}
	p.typed(p.lost.Name, "shoal agent")
	if err := p.lost.Start(); err != nil {
		return err
	}
	err := p.await(p.lost.Name+" to be ready and each replica to run once", func() bool {
		list, err := p.nodes()
		if err != nil || slices.ContainsFunc(list, func(n api.NodeView) bool { return n.State != job.NodeReady }) {
			return false
		}
		return len(p.inKernel()) == replicas && p.once() == nil
	})
	if err != nil {
		return errors.Join(err, p.once())
	}
	for _, verb := range []string{"node ls", "ps"} {
		if err := p.shoal(p.ctx, p.binary, p.lost, strings.Fields(verb)...); err != nil {
			return err
		}
	}
	p.tell(green, "The kernel agrees: %s.", strings.Join(p.inKernel(), ", "))
	return nil
}

// once says which slot does not run exactly once.
func (p *play) once() error {
	tasks, err := p.tasks()
	if err != nil {
		return err
	}
	count := map[int]int{}
	for _, t := range tasks {
		if t.Ready {
			count[t.Slot]++
		}
	}
	for slot := 1; slot <= replicas; slot++ {
		if count[slot] != 1 {
			return fmt.Errorf("%s.%d runs %d times", jobName, slot, count[slot])
		}
	}
	return nil
}

// inKernel lists the tasks whose processes there are, machine by machine.
func (p *play) inKernel() []string {
	var out []string
	for _, m := range p.net.Machines() {
		for id, pids := range m.Tasks(jobName) {
			out = append(out, fmt.Sprintf("process %d of task %s on %s", pids[0], id, m.Name))
		}
	}
	slices.Sort(out)
	return out
}
