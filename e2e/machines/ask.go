package machines

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"shoal/node/api"
)

// Client asks the machine's agent through its socket.
func (m *Machine) Client() *api.Client { return api.DialUnix(m.Socket()) }

// Result of a run of the CLI.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Error makes a run that failed an error.
func (r Result) Error() string { return r.String() }

func (r Result) String() string {
	return fmt.Sprintf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
}

// Shoal runs the CLI against the machine's agent, as a person on the machine would, for at most two minutes.
func (m *Machine) Shoal(args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), m.net.Patience(2*time.Minute))
	defer cancel()
	return m.ShoalContext(ctx, nil, args...)
}

// ShoalContext is Shoal with a context and standard input; nil is an empty one.
func (m *Machine) ShoalContext(ctx context.Context, stdin io.Reader, args ...string) Result {
	cmd := exec.CommandContext(ctx, m.binary(), append([]string{"--host", m.Socket()}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	r := Result{Code: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errs.String()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.Stderr += err.Error()
	}
	return r
}

// JSON runs a reading verb with --json and decodes its answer into v.
func (m *Machine) JSON(v any, args ...string) error {
	r := m.Shoal(append(args, "--json")...)
	if r.Code != 0 {
		return fmt.Errorf("shoal %s: %s", strings.Join(args, " "), r)
	}
	if err := json.Unmarshal([]byte(r.Stdout), v); err != nil {
		return fmt.Errorf("shoal %s: %w in %q", strings.Join(args, " "), err, r.Stdout)
	}
	return nil
}

// Ready tells whether the agent takes part in its cluster.
func (m *Machine) Ready() bool {
	ctx, cancel := context.WithTimeout(context.Background(), m.net.Patience(2*time.Second))
	defer cancel()
	c := m.Client()
	defer c.Close()
	s, err := c.Status(ctx)
	return err == nil && s.Ready
}

// AwaitReady waits for Ready; an agent that ended is an error at once.
func (m *Machine) AwaitReady(limit time.Duration) error {
	for end := time.Now().Add(limit); !m.Ready(); time.Sleep(20 * time.Millisecond) {
		if m.fell() {
			return fmt.Errorf("machine %s went off by itself, or its first process did: %s", m.Name, m.Autopsy())
		}
		if !m.Running() {
			return fmt.Errorf("the agent of %s ended; its log is %s", m.Name, m.LogPath())
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for the agent of %s; its log is %s", limit, m.Name, m.LogPath())
		}
	}
	return nil
}

// Patience stretches a time by how much slower such machines are than namespaces.
func (n *Net) Patience(d time.Duration) time.Duration { return n.driver.patience(d) }

// Form switches n machines on and makes one cluster of them, with as many voters as it should have.
func (n *Net) Form(count int, o MachineOptions) error {
	for range count {
		if _, err := n.Add(o); err != nil {
			return err
		}
	}
	all := n.Machines()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		wg.Go(func() { errs[i] = m.PowerOn() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := all[0].Start(); err != nil {
		return err
	}
	if err := all[0].AwaitReady(n.Patience(30 * time.Second)); err != nil {
		return err
	}
	c := all[0].Client()
	defer c.Close()
	token, err := c.CreateToken(context.Background(), api.TokenRequest{})
	if err != nil {
		return err
	}
	for _, m := range all[1:] {
		if err := m.Start("--join", all[0].Addr.String()+":6174", "--token", token.Secret); err != nil {
			return err
		}
	}
	for _, m := range all[1:] {
		if err := m.AwaitReady(n.Patience(30 * time.Second)); err != nil {
			return err
		}
	}
	return n.AwaitVoters(n.Patience(30 * time.Second))
}

// AwaitVoters waits until the cluster has the voters and standbys that its size asks for.
func (n *Net) AwaitVoters(limit time.Duration) error {
	all := n.Machines()
	want := map[bool]int{true: 3, false: 1}[len(all) >= 3]
	if len(all) >= 7 {
		want = 5
	}
	var got int
	err := await(limit, "", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), n.Patience(5*time.Second))
		defer cancel()
		for _, m := range all {
			if !m.Running() {
				continue
			}
			c := m.Client()
			defer c.Close()
			list, err := c.Nodes(ctx)
			if err != nil {
				continue
			}
			got = 0
			for _, node := range list.Nodes {
				if node.Role == "voter" {
					got++
				}
			}
			return got == want && len(list.Nodes) == len(all)
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("waited %v for %d voters, there are %d", limit, want, got)
	}
	return nil
}

// Leads tells whether the machine's agent says that it leads.
func (m *Machine) Leads() bool {
	if !m.Running() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.net.Patience(2*time.Second))
	defer cancel()
	c := m.Client()
	defer c.Close()
	s, err := c.Status(ctx)
	return err == nil && s.Leader != "" && s.Leader == s.Node
}

// Leader is the machine that leads, nil if none is known.
func (n *Net) Leader() *Machine {
	for _, m := range n.Machines() {
		if m.Leads() {
			return m
		}
	}
	return nil
}
