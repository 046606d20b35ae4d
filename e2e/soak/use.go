package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

const (
	image      = "soak/busybox:1"
	patience   = 2 * time.Minute
	opLimit    = 30 * time.Second
	visitors   = 5   // short-lived jobs at a time, each with a name that never comes again
	goodShare  = 0.9 // of the operations that must succeed: a task may go while it is asked
	fillFactor = 0.5 // of the operations that the pause allows, which must have been done: else it was no use
)

// The jobs that stay: a server with a health check and a published port, one that writes much into its log, one with a
// volume, and a batch each minute.
const (
	webFile = `
services:
  web:
    image: ` + image + `
    command: [sh, -c, "mkdir -p /tmp/www && echo hello > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"]
    environment: {VERSION: "%d"}
    ports: ["8080:8080"]
    init: true
    stop_grace_period: 1s
    x-drain: 0s
    healthcheck: {test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1:8080/"], interval: 5s}
    deploy: {replicas: 3, update_config: {parallelism: 1, monitor: 1s}}
`
	chatFile = `
services:
  chat:
    image: ` + image + `
    command: [sh, -c, "i=0; while :; do i=$$((i+1)); echo \"line $$i of a task that has much to say, so that its log is turned over many times in the soak\"; usleep 400000; done"]
    stop_grace_period: 1s
    logging: {options: {max-size: 64k, max-file: "3"}}
    deploy: {replicas: 3}
`
	keepFile = `
services:
  keep:
    image: ` + image + `
    command: [sh, -c, "date >> /data/starts; exec sleep 1000000"]
    init: true
    stop_grace_period: 1s
    volumes: ["data:/data"]
volumes: {data: {}}
`
	tickFile = `
services:
  tick:
    image: ` + image + `
    command: [sh, -c, "date; echo done"]
    x-schedule: "@every 1m"
`
)

// user is who uses the cluster. All is done by one goroutine.
type user struct {
	net      *machines.Net
	rand     *rand.Rand
	serial   int      // of the next visitor
	visitors []string // their names, the eldest first
	version  int      // of web
	began    time.Time
	done     map[string]int
	failed   map[string]int
	lastErr  map[string]error
	used     time.Duration // without the rests
	deaths   int
}

func newUser(n *machines.Net, seed uint64) (*user, error) {
	u := &user{
		net: n, rand: rand.New(rand.NewPCG(seed, 0)), began: time.Now(), version: 1,
		done: map[string]int{}, failed: map[string]int{}, lastErr: map[string]error{},
	}
	archive, err := machines.Busybox(image)
	if err != nil {
		return nil, err
	}
	for _, m := range n.Machines() {
		if err := m.LoadImage(archive); err != nil {
			return nil, err
		}
	}
	for name, file := range map[string]string{"web": fmt.Sprintf(webFile, u.version), "chat": chatFile, "keep": keepFile, "tick": tickFile} {
		if err := u.submitFile(context.Background(), name, file); err != nil {
			return nil, err
		}
	}
	begun := time.Now()
	if err := u.fill(context.Background()); err != nil {
		return nil, err
	}
	progress("what the cluster remembers is filled, in %v", time.Since(begun).Round(time.Second))
	return u, u.rest(context.Background())
}

// submitFile is `shoal run -f`, by the shipped binary.
func (u *user) submitFile(ctx context.Context, name, file string) error {
	r := u.steady().ShoalContext(ctx, strings.NewReader(file), "run", "-f", "-", "--name", name, "--detach")
	if r.Code != 0 {
		return fmt.Errorf("submit %s: %w", name, r)
	}
	return nil
}

// steady is a machine whose agent is never killed.
func (u *user) steady() *machines.Machine { return u.net.Machines()[u.rand.IntN(machineCount-1)] }

// operations with their weights.
var operations = []struct {
	name   string
	weight int
	do     func(*user, context.Context, *api.Client) error
}{
	{"submit and remove", 5, (*user).visit},
	{"scale", 2, (*user).scale},
	{"update", 1, (*user).update},
	{"exec", 6, (*user).exec},
	{"exec, cut off", 1, (*user).execCut},
	{"logs", 4, (*user).logs},
	{"logs, followed", 2, (*user).follow},
	{"kill a task", 1, (*user).killTask},
	{"copy in and out", 1, (*user).copy},
	{"read", 6, (*user).read},
	{"connect", 5, (*user).connect},
	{"token", 1, (*user).token},
	{"label", 1, (*user).label},
	{"load an image", 1, (*user).load},
}

// use does one operation after another for some time.
func (u *user) use(ctx context.Context, span, pause time.Duration) {
	var bag []int
	for i, o := range operations {
		bag = append(bag, slices.Repeat([]int{i}, o.weight)...)
	}
	begun := time.Now()
	for time.Since(begun) < span {
		if wait(ctx, time.Duration(u.rand.Int64N(int64(2*pause)))) != nil {
			break
		}
		o := operations[bag[u.rand.IntN(len(bag))]]
		octx, cancel := context.WithTimeout(ctx, opLimit)
		c := u.steady().Client()
		err := o.do(u, octx, c)
		c.Close()
		cancel()
		u.done[o.name]++
		if err != nil && ctx.Err() == nil {
			u.failed[o.name]++
			u.lastErr[o.name] = err
		}
	}
	u.used += time.Since(begun)
}

// visit submits a job with a new name, and removes the eldest when there are enough.
func (u *user) visit(ctx context.Context, c *api.Client) error {
	if len(u.visitors) >= visitors {
		eldest := u.visitors[0]
		u.visitors = u.visitors[1:]
		return c.RemoveJob(ctx, eldest)
	}
	u.serial++
	name := fmt.Sprintf("visitor-%d", u.serial)
	u.visitors = append(u.visitors, name)
	_, err := c.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: job.Spec{Name: name, Services: []job.Service{{
		Name: "s", Replicas: 1 + u.rand.IntN(2), Image: image, StopSignal: "SIGKILL",
		Command: []string{"sh", "-c", "echo " + name + "; exec sleep 1000000"},
		Mounts:  []job.Mount{{Type: "tmpfs", Target: "/scratch"}},
	}}}})
	return err
}

func (u *user) scale(ctx context.Context, c *api.Client) error {
	_, err := c.Scale(ctx, api.NewKey(), "chat", map[string]int{"chat": 1 + u.rand.IntN(5)})
	return err
}

func (u *user) update(ctx context.Context, _ *api.Client) error {
	u.version++
	return u.submitFile(ctx, "web", fmt.Sprintf(webFile, u.version))
}

// task is some task that runs on a machine that is never killed.
func (u *user) task(ctx context.Context, c *api.Client) (api.Task, error) {
	list, err := c.Tasks(ctx, api.TaskQuery{})
	if err != nil {
		return api.Task{}, err
	}
	last := u.net.Machines()[machineCount-1].Name
	ready := slices.DeleteFunc(list.Tasks, func(k api.Task) bool { return !k.Ready || k.NodeName == last || k.Job == "tick" })
	if len(ready) == 0 {
		return api.Task{}, errors.New("no task is ready")
	}
	return ready[u.rand.IntN(len(ready))], nil
}

func (u *user) exec(ctx context.Context, c *api.Client) error {
	k, err := u.task(ctx, c)
	if err != nil {
		return err
	}
	var out strings.Builder
	e := &api.ClientExec{ExecRequest: api.ExecRequest{Args: []string{"sh", "-c", "cat; nslookup web.web >/dev/null 2>&1; echo there"}, Input: true}}
	e.Stdin, e.Stdout = strings.NewReader("here\n"), &out
	code, err := c.Exec(ctx, string(k.ID), e)
	if err == nil && (code != 0 || out.String() != "here\nthere\n") {
		err = fmt.Errorf("exit %d, %q", code, out.String())
	}
	return err
}

// execCut leaves a command behind, as a client that is killed does.
func (u *user) execCut(ctx context.Context, c *api.Client) error {
	k, err := u.task(ctx, c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	e := &api.ClientExec{ExecRequest: api.ExecRequest{Args: []string{"sleep", "3"}, TTY: u.rand.IntN(2) == 0}}
	_, _ = c.Exec(ctx, string(k.ID), e) // it is cut off on purpose
	return nil
}

func (u *user) logs(ctx context.Context, c *api.Client) error {
	k, err := u.task(ctx, c)
	if err != nil {
		return err
	}
	return c.Logs(ctx, string(k.ID), api.LogQuery{Tail: 20}, func(api.LogRecord) error { return nil })
}

func (u *user) follow(ctx context.Context, c *api.Client) error {
	k, err := u.task(ctx, c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = c.Logs(ctx, string(k.ID), api.LogQuery{Tail: 5, Follow: true}, func(api.LogRecord) error { return nil }) // until the time is over
	return nil
}

// killTask kills a container's first process from outside, as the kernel does when memory is short.
func (u *user) killTask(context.Context, *api.Client) error {
	m := u.net.Machines()[u.rand.IntN(machineCount)]
	tasks := m.Tasks([]string{"web", "chat", "keep"}[u.rand.IntN(3)])
	if len(tasks) == 0 {
		return nil
	}
	ids := slices.Sorted(maps.Keys(tasks))
	return unix.Kill(tasks[ids[u.rand.IntN(len(ids))]][0], unix.SIGKILL)
}

func (u *user) copy(ctx context.Context, c *api.Client) error {
	k, err := u.task(ctx, c)
	if err != nil {
		return err
	}
	return c.CopyOut(ctx, string(k.ID), api.CopyOutRequest{Path: "/etc"}, io.Discard)
}

func (u *user) read(ctx context.Context, c *api.Client) error {
	switch u.rand.IntN(5) {
	case 0:
		return c.Events(ctx, api.EventQuery{}, func(job.Event) error { return nil })
	case 1:
		_, err := c.Job(ctx, "web", true)
		return err
	case 2:
		k, err := u.task(ctx, c)
		if err != nil {
			return err
		}
		_, err = c.Stats(ctx, string(k.ID))
		return err
	case 3:
		_, err := c.Nodes(ctx)
		return err
	default:
		if r := u.steady().ShoalContext(ctx, nil, "ps", "-a"); r.Code != 0 {
			return r
		}
		return nil
	}
}

// connect asks the published port of some machine.
func (u *user) connect(ctx context.Context, _ *api.Client) error {
	m := u.steady()
	conn, err := m.DialContext(ctx, "tcp", m.Addr.String()+":8080")
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(conn, 1<<16))
	if err == nil && !strings.Contains(string(b), "hello") {
		err = fmt.Errorf("answered %q", b)
	}
	return err
}

func (u *user) token(ctx context.Context, c *api.Client) error {
	t, err := c.CreateToken(ctx, api.TokenRequest{})
	if err != nil {
		return err
	}
	return c.RemoveToken(ctx, t.ID)
}

func (u *user) label(ctx context.Context, c *api.Client) error {
	return c.SetLabels(ctx, u.steady().Name, map[string]string{"soak": fmt.Sprint(u.rand.IntN(10))})
}

// load brings an image with another name and takes it away again.
func (u *user) load(ctx context.Context, c *api.Client) error {
	u.serial++
	name := fmt.Sprintf("soak/visitor:%d", u.serial)
	archive, err := machines.Busybox(name)
	if err != nil {
		return err
	}
	if _, err := c.LoadImage(ctx, strings.NewReader(string(archive))); err != nil {
		return err
	}
	return c.RemoveImage(ctx, name)
}

// killAgent kills the last machine's agent, or asks it to end, and starts it anew.
func (u *user) killAgent() error {
	m := u.net.Machines()[machineCount-1]
	u.deaths++
	s := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[u.deaths%2]
	if err := m.Signal(s); err != nil {
		return err
	}
	if _, err := m.AwaitEnd(opLimit); err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	return m.AwaitReady(patience)
}

// rest takes all visitors away, brings the others to their usual size, and waits until that is so.
func (u *user) rest(ctx context.Context) error {
	c := u.steady().Client()
	defer c.Close()
	for _, name := range u.visitors {
		if err := c.RemoveJob(ctx, name); err != nil && job.KindOf(err) != job.NotFound {
			return fmt.Errorf("rest: remove %s: %w", name, err)
		}
	}
	u.visitors = nil
	if _, err := c.Scale(ctx, api.NewKey(), "chat", map[string]int{"chat": 3}); err != nil {
		return fmt.Errorf("rest: %w", err)
	}
	want := map[string]int{"web": 3, "chat": 3, "keep": 1}
	var not error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if not = settled(ctx, c, want); not == nil {
			return nil
		}
		if err := wait(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("rest: waited %v: %w", patience, not)
}

// settled complains unless exactly the wanted tasks are there, all ready, and no update goes on.
func settled(ctx context.Context, c *api.Client, want map[string]int) error {
	list, err := c.Tasks(ctx, api.TaskQuery{})
	if err != nil {
		return err
	}
	have := map[string]int{}
	for _, k := range list.Tasks {
		switch {
		case k.Job == "tick": // comes and goes
		case !k.Ready || k.Desired != job.DesiredRun:
			return fmt.Errorf("%s (%s) on %s is %s, meant to %s", k.Name, k.ID, k.NodeName, k.State(), k.Desired)
		default:
			have[k.Job]++
		}
	}
	if !maps.Equal(have, want) {
		return fmt.Errorf("tasks are %v, not %v", have, want)
	}
	return nil
}

// tell says what was done so far.
func (u *user) tell() {
	all, failed := u.counts()
	progress("%v: %d operations, %d failed, %d deaths of %s's agent", time.Since(u.began).Round(time.Second), all, failed, u.deaths, u.net.Machines()[machineCount-1].Name)
	for _, name := range slices.Sorted(maps.Keys(u.lastErr)) {
		progress("  %s: %d of %d failed, last: %v", name, u.failed[name], u.done[name], u.lastErr[name])
	}
}

func (u *user) counts() (all, failed int) {
	for name, n := range u.done {
		all += n
		failed += u.failed[name]
	}
	return all, failed
}

// enough complains about a run that was no use.
func (u *user) enough(length, pause time.Duration) error {
	all, failed := u.counts()
	if want := int(fillFactor * float64(u.used/pause)); all < want {
		return fmt.Errorf("void: %d operations in %v of use, at least %d were meant", all, u.used.Round(time.Second), want)
	}
	if good := all - failed; float64(good) < goodShare*float64(all) {
		return fmt.Errorf("void: %d of %d operations failed", failed, all)
	}
	return nil
}
