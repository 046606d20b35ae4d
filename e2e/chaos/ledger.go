package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// account is what a machine holds while no job is on it: exact are things by name, rough are numbers of things that come
// and go with connections.
type account struct {
	exact map[string]bool
	rough map[string]int
}

// machineSleep is what a machine's own first process waits in; a container that sleeps does it for longer.
const machineSleep = "sleep 1000"

// take makes the account of a machine, from the kernel and the public API.
func take(ctx context.Context, m *machines.Machine) (account, error) {
	a := account{exact: map[string]bool{}, rough: map[string]int{}}
	pid := m.AgentPID()
	if pid == 0 {
		return a, fmt.Errorf("the agent of %s does not run", m.Name)
	}
	for p, cmd := range m.Processes() {
		word := filepath.Base(strings.Fields(cmd + " ?")[0])
		if cmd != machineSleep && word != "bash" && word != "unshare" && word != "hostname" {
			if p == pid {
				word = "agent" // of whichever build: the files may have different names
			}
			a.exact["process "+word] = true
			a.rough["processes"]++
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return a, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.Contains(f[4], "/"+m.Name+"/disk/") {
			a.exact["mount "+f[4]] = true
		}
	}
	for _, what := range []string{"link", "rule"} {
		out, err := m.Command("ip", "-o", what).Output()
		if err != nil {
			return a, fmt.Errorf("ip %s on %s: %w", what, m.Name, err)
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 1 && f[1] != "eth0:" {
				name, _, _ := strings.Cut(f[1], "@")
				a.exact[what+" "+strings.TrimSuffix(name, ":")] = true
			}
		}
	}
	out, err := m.Command("nft", "list", "ruleset").Output()
	if err != nil {
		return a, fmt.Errorf("nft on %s: %w", m.Name, err)
	}
	a.rough["lines of rules"] = strings.Count(string(out), "\n")
	for _, dir := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} { // of version 2, and each hierarchy of version 1
		found, _ := filepath.Glob(dir + m.Cgroup() + "/*/cgroup.procs") // the pattern is right
		for _, f := range found {
			a.exact["cgroup "+strings.TrimPrefix(filepath.Dir(f), "/sys/fs/cgroup/")] = true
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return a, err
	}
	for _, fd := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if err != nil {
			continue // the one of the listing, or just closed
		}
		kind, _, isKind := strings.Cut(to, ":")
		if !isKind {
			kind = "file"
		}
		a.rough["descriptors: "+kind]++
	}
	c := m.Client()
	defer c.Close()
	raw, err := c.Debug(ctx)
	if err != nil {
		return a, err
	}
	var d struct{ Goroutines int }
	if err := json.Unmarshal(raw, &d); err != nil {
		return a, err
	}
	a.rough["goroutines"] = d.Goroutines
	return a, nil
}

// takeAll makes the accounts of all machines; rough numbers are summed up, because who leads has other ones.
func (w *World) takeAll(ctx context.Context) (account, error) {
	sum := account{exact: map[string]bool{}, rough: map[string]int{}}
	for _, m := range w.Machines() {
		a, err := take(ctx, m)
		if err != nil {
			return sum, err
		}
		for k := range a.exact {
			sum.exact[m.Name+": "+strings.ReplaceAll(k, filepath.Dir(filepath.Dir(m.DataDir())), "")] = true
		}
		for k, n := range a.rough {
			sum.rough[k] += n
		}
	}
	return sum, nil
}

// Rough numbers may have grown by a tenth and a few; those that go with connections by half: idle ones are kept for a minute
// and a half, and who asks whom depends on who leads.
const roughSlack = 12

func slack(kind string, was int) int {
	switch kind {
	case "lines of rules": // nothing runs then that has any
		return 0
	case "descriptors: socket", "goroutines":
		return was/2 + 2*roughSlack
	}
	return was/10 + roughSlack
}

// more tells what one account has that another has not.
func (a account) more(than account) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(a.exact)) {
		if !than.exact[k] {
			out = append(out, k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(a.rough)) {
		if n, was := a.rough[k], than.rough[k]; n > was+slack(k, was) {
			out = append(out, fmt.Sprintf("%d %s, there were %d", n, k, was))
		}
	}
	return out
}

// emptied removes all jobs and waits until no task is left.
func (w *World) emptied(ctx context.Context) error {
	var left string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		left = ""
		err := w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			jobs, err := c.Jobs(ctx)
			if err != nil {
				return err
			}
			for _, j := range jobs.Jobs {
				left = "job " + j.Name
				if err := c.RemoveJob(ctx, j.Name); err != nil && job.KindOf(err) != job.NotFound {
					return err
				}
			}
			tasks, err := c.Tasks(ctx, api.TaskQuery{})
			if len(tasks.Tasks) > 0 {
				left = fmt.Sprintf("%d tasks", len(tasks.Tasks))
			}
			return err
		})
		if err == nil && left == "" && len(census(w.Machines())) == 0 {
			return nil
		}
		if err != nil {
			left = err.Error()
		}
		if err := Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("after %v there is still: %s; %v", patience, left, census(w.Machines()))
}

// balanced waits until the machines hold no more than they did, and tells what they hold more.
func (w *World) balanced(ctx context.Context, was account) (more []string, err error) {
	begun := time.Now()
	for end := begun.Add(patience); ; {
		is, err := w.takeAll(ctx)
		if err == nil {
			last := more
			if more = is.more(was); len(more) == 0 {
				w.Log("the machines hold what they held before, %v after the last job was gone; last to go: %s", time.Since(begun).Round(time.Second), strings.Join(last, ", "))
				return nil, nil
			}
		}
		if time.Now().After(end) {
			return more, err
		}
		if err := Sleep(ctx, time.Second); err != nil {
			return more, err
		}
	}
}
