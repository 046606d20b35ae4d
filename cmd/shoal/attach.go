package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"shoal/consensus/job"
	"shoal/node/api"
)

func attachCommand() *cli.Command {
	return &cli.Command{
		Name: "attach", Category: categoryLook,
		Usage:     "join your terminal to a task's own input and output, on whatever node it is",
		ArgsUsage: "TASK",
		Description: "It ends with the task, and with its exit code. On a task with a terminal ctrl-p ctrl-q leaves; elsewhere Ctrl-C is sent to\n" +
			"the task, unless --sig-proxy=false: then it leaves. `shoal logs` shows what was written before.\n\n" +
			"Examples:\n  shoal attach web/front.1 --no-stdin\n  shoal attach shell",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "no-stdin", Usage: "pass nothing on to it"},
			&cli.BoolFlag{Name: "sig-proxy", Value: true, Usage: "send signals on to the task when it has no terminal"},
			detachKeysFlag(),
		),
		Action: asking(attach),
	}
}

func attach(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	t, err := oneTask(c.Context, cl, c.Args().First())
	if err != nil {
		return err
	}
	svc, err := serviceOf(c.Context, cl, t)
	if err != nil {
		return err
	}
	a := &attachTo{s: s, cl: cl, task: string(t.ID), tty: svc.TTY, keys: c.String("detach-keys"), proxy: c.Bool("sig-proxy")}
	a.streams.Stdout, a.streams.Stderr = s.out, s.err
	if svc.Stdin && !c.Bool("no-stdin") {
		a.streams.Stdin = c.App.Reader
	}
	code, err := a.run(c)
	return sessionEnd(c, code, err)
}

// oneTask finds the task that a person means; the name of a job or JOB/SERVICE with a single task means that.
func oneTask(ctx context.Context, cl *api.Client, ref string) (*api.Task, error) {
	list, err := cl.Tasks(ctx, api.TaskQuery{All: true})
	if err != nil {
		return nil, err
	}
	tasks, err := pick([]target{parseTarget(ref)}, list.Tasks)
	if err != nil {
		return nil, err
	}
	if len(tasks) > 1 {
		return nil, job.Errorf(job.Conflict, "%s: it has %d tasks; say which, such as %s", ref, len(tasks), fullName(&tasks[0]))
	}
	return &tasks[0], nil
}

// serviceOf finds what a task was made from, also when its job has changed since.
func serviceOf(ctx context.Context, cl *api.Client, t *api.Task) (*job.Service, error) {
	d, err := cl.Job(ctx, t.Job, true)
	if err != nil {
		return nil, err
	}
	for _, v := range append([]job.Job{d.Job}, d.Versions...) {
		if svc := v.Spec.Service(t.Service); svc != nil && svc.Digest() == t.Digest {
			return svc, nil
		}
	}
	if svc := d.Job.Spec.Service(t.Service); svc != nil {
		return svc, nil
	}
	return nil, job.Errorf(job.NotFound, "service %s of job %s is gone", t.Service, t.Job)
}

// attachTo follows one task to its end.
type attachTo struct {
	s       *screen
	cl      *api.Client
	task    string
	tty     bool
	keys    string
	proxy   bool
	streams api.ClientStreams
	request api.AttachRequest
	onNote  func(api.Note)
	input   *input           // of all sessions; nil: none
	typed   bool             // by a person, at a terminal
	size    func() *api.Size // of the terminal now; nil where there is none
}

// reattachFor is how long one whose connection broke tries to attach again: an agent is started anew in less.
const reattachFor = 30 * time.Second

func (a *attachTo) run(c *cli.Context) (int, error) {
	// Its own context: the first signal is the task's.
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context))
	defer cancel()
	at, err := sit(ctx, &a.streams, c.App.Reader, a.tty, a.keys)
	if err != nil {
		return 0, err
	}
	defer at.restore()
	a.size = at.now
	a.typed = isTerminal(c.App.Reader)
	if a.streams.Stdin != nil {
		a.input = newInput(a.streams.Stdin)
		defer a.input.close()
	}
	a.streams.Note = a.onNote
	if a.proxy && !a.tty {
		stop := a.proxySignals(ctx, cancel)
		defer stop()
	} else {
		stop := context.AfterFunc(c.Context, cancel)
		defer stop()
	}
	code, err := a.follow(ctx)
	at.restore() // before anything is said
	return code, err
}

// follow attaches, and again when the connection breaks while the task lives.
func (a *attachTo) follow(ctx context.Context) (int, error) {
	var broken time.Time
	for {
		code, err := a.once(ctx)
		kind := job.KindOf(err)
		if err == nil || errors.Is(err, api.ErrDetached) || ctx.Err() != nil || kind != job.Unavailable && kind != job.Conflict && kind != job.NotFound {
			return code, err
		}
		lossy := a.input != nil && !a.typed && a.input.began()
		if kind == job.Unavailable && lossy {
			return code, a.lossy(err)
		}
		// The node, its agent or the run may be over: the cluster knows.
		if t, terr := a.cl.Task(ctx, a.task); terr == nil && t.State().Terminal() {
			return ended(&t)
		} else if kind != job.Unavailable && terr == nil && t.State() != job.Running {
			return code, err
		}
		if lossy { // also what went to a session that was refused is gone
			return code, a.lossy(err)
		}
		if broken.IsZero() {
			broken = time.Now()
			a.s.note("%v; attaching again", err)
		}
		if time.Since(broken) > reattachFor {
			return code, err
		}
		if err := pause(ctx, retryPause); err != nil {
			return code, err
		}
	}
}

// lossy is the error of a session that had begun to send what nobody can send again.
func (a *attachTo) lossy(err error) error {
	return job.Errorf(job.KindOf(err), "%w; how much of standard input reached the task is not known, so it is not attached again: "+
		"`shoal ps` tells what became of it, `shoal attach --no-stdin %s` goes on without", err, a.task)
}

// once attaches for one session.
func (a *attachTo) once(ctx context.Context) (int, error) {
	streams := a.streams // its goroutines may outlive the session
	if a.input != nil {
		in := a.input.session()
		defer in.end()
		streams.Stdin = in
	}
	if a.size != nil {
		a.request.Size = a.size()
	}
	return a.cl.Attach(ctx, a.task, a.request, &streams)
}

// ended is how a task ended that nobody could watch.
func ended(t *api.Task) (int, error) {
	if st := t.Status; st != nil && st.ExitCode != nil && t.State() != job.Lost {
		if *st.ExitCode >= exitNotExecutable && *st.ExitCode <= exitNoCommand && st.Message != "" {
			return *st.ExitCode, job.Errorf(job.Invalid, "%s", st.Message)
		}
		return *st.ExitCode, nil
	}
	why := "its exit code is not known"
	if t.Status != nil && t.Status.Message != "" {
		why = t.Status.Message
	}
	return 0, job.Errorf(job.Internal, "task %s is %s: %s", t.ID, t.State(), why)
}

// proxied are the signals that a session sends on.
var proxied = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// proxySignals sends signals on to the task. The second that asks it to end kills it, and the third ends this program.
func (a *attachTo) proxySignals(ctx context.Context, giveUp func()) (stop func()) {
	ch, done := make(chan os.Signal, 8), make(chan struct{})
	signal.Notify(ch, proxied...)
	go func() {
		asked := 0
		var late <-chan time.Time
		for {
			select {
			case <-done:
				return
			case <-late:
				a.s.note("the task has got the signal and goes on; once more kills it")
				late = nil
			case sig := <-ch:
				name := unix.SignalName(sig.(syscall.Signal))
				if sig == syscall.SIGINT || sig == syscall.SIGTERM || sig == syscall.SIGQUIT {
					asked++
				}
				switch asked {
				case 2:
					name = "SIGKILL"
				case 3:
					giveUp()
					return
				}
				if err := a.cl.Signal(ctx, a.task, name); err != nil {
					if job.KindOf(err) == job.NotFound || job.KindOf(err) == job.Conflict || asked > 1 {
						giveUp() // there is nothing yet that it could end
						return
					}
					a.s.note("%s could not be sent on: %v", name, err)
				}
				if asked == 1 {
					late = time.After(3 * time.Second)
				}
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}

func describeNote(n api.Note) string {
	switch {
	case n.State != string(job.Pulling):
		return n.State
	case n.Total > 0:
		return fmt.Sprintf("pulling the image: %s of %s", job.FormatBytes(n.Done), job.FormatBytes(n.Total))
	}
	return "pulling the image"
}
