package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

// exitOwn is docker's word for a failure that is not the program's: run in the foreground ends with what the program
// ended with.
const exitOwn = 125

// foregroundFlags are those of a run that one watches, as docker run has them.
func foregroundFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "rm", Usage: "remove it when it has ended"},
		&cli.StringSliceFlag{Name: "attach", Aliases: []string{"a"}, Usage: "`STREAM` to attach: stdin, stdout or stderr; may be given more than once (default: stdout and stderr, and stdin with -i)"},
		&cli.StringFlag{Name: "cidfile", Usage: "`FILE` to write the task's id to"},
		&cli.BoolFlag{Name: "sig-proxy", Value: true, Usage: "send signals on to it when it has no terminal"},
		detachKeysFlag(),
	}
}

// inForeground tells a run that one watches from a service: neither --detach, --replicas, --mode nor --schedule is given.
func inForeground(c *cli.Context) bool {
	for _, name := range []string{"file", "detach", "replicas", "mode", "schedule", "json", "dry-run"} {
		if c.IsSet(name) {
			return false
		}
	}
	return c.Args().Present()
}

// onlyInForeground refuses flags that mean nothing for a service.
func onlyInForeground(c *cli.Context) error {
	for _, f := range foregroundFlags() {
		if given(c, f) {
			return exitf(exitUsage, "--%s goes with a run in the foreground: without --detach, --replicas, --mode, --schedule, --json, --dry-run and -f", f.Names()[0])
		}
	}
	return nil
}

// given tells whether a flag stands on the command line: a value from the environment is meant for whoever can use it.
func given(c *cli.Context, f cli.Flag) bool {
	name := f.Names()[0]
	if d, ok := f.(cli.DocGenerationFlag); ok {
		for _, e := range d.GetEnvVars() {
			if v := os.Getenv(e); v != "" && v == c.String(name) {
				return false
			}
		}
	}
	return c.IsSet(name)
}

// envOfFiles reads --env-file as docker does: lines KEY=VALUE, or KEY to take it from here; # begins a comment.
// A byte order mark, which editors on Windows put first, is none of the text.
func envOfFiles(c *cli.Context) ([]string, error) {
	var env []string
	for _, name := range c.StringSlice("env-file") {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, exitf(exitUsage, "--env-file: %v", err)
		}
		for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) {
			line = strings.TrimRight(strings.TrimLeft(line, " \t"), "\r\n")
			if line != "" && !strings.HasPrefix(line, "#") {
				env = append(env, line)
			}
		}
	}
	return env, nil
}

// oneShot makes a spec one that runs once, where one watches it.
func oneShot(c *cli.Context, spec *job.Spec) {
	s := &spec.Services[0]
	s.Attach = true
	if !c.IsSet("restart") {
		s.Restart = job.Restart{Policy: job.RestartNever}
	}
	if s.Failover == nil {
		s.Failover = &job.Failover{Mode: job.FailoverManual} // it must not run twice
	}
	if c.String("name") == "" {
		spec.Name = spec.Name[:min(len(spec.Name), 50)] + "-" + strings.ToLower(rand.Text()[:6])
	}
}

// foreground runs one container and is its terminal until it ends.
type foreground struct {
	c    *cli.Context
	s    *screen
	cl   *api.Client
	name string // of the job
	told bool   // the line of progress stands on the terminal
}

func runInForeground(c *cli.Context, s *screen, cl *api.Client) error {
	spec, err := specOf(c, s)
	if err != nil {
		return own(err)
	}
	oneShot(c, spec)
	f := &foreground{c: c, s: s, cl: cl, name: spec.Name}
	streams, err := f.streams(spec)
	if err != nil {
		return err
	}
	fresh := uint64(0)
	var result api.SubmitResult
	key := api.NewKey()
	err = persist(c.Context, s, cl, func() (err error) {
		result, err = cl.Submit(c.Context, key, api.SubmitRequest{Spec: *spec, IfVersion: &fresh})
		return err
	})
	switch {
	case job.KindOf(err) == job.Conflict && c.String("name") != "":
		return exitf(exitOwn, "the name %s is in use: %v; `shoal rm %s` frees it", spec.Name, err, spec.Name)
	case err != nil:
		return own(err)
	}
	code, err := f.watch(&result, streams, spec.Services[0].TTY)
	f.clear()
	if errors.Is(err, api.ErrDetached) {
		return nil // it goes on, and stays also with --rm: somebody may attach again
	}
	if c.Bool("rm") || result.Index > 0 && err != nil && code == 0 && !f.ran() {
		f.remove()
	}
	switch {
	case c.Context.Err() != nil && err != nil:
		return exitf(exitInterrupted, "")
	case err != nil && (code == exitNotExecutable || code == exitNoCommand):
		return exitf(code, "%v", err)
	case err != nil:
		return own(err)
	case code != 0:
		return exitf(code, "")
	}
	return nil
}

// own is a failure of shoal's, not of the program.
func own(err error) error {
	var exit *exitError
	if errors.As(err, &exit) {
		return exitf(exitOwn, "%s", exit.message)
	}
	return exitf(exitOwn, "%v", err)
}

func (f *foreground) streams(spec *job.Spec) (api.ClientStreams, error) {
	st := api.ClientStreams{Stdout: f.s.out, Stderr: f.s.err}
	wanted := f.c.StringSlice("attach")
	for _, w := range wanted {
		if !slices.Contains([]string{"stdin", "stdout", "stderr"}, strings.ToLower(w)) {
			return st, exitf(exitUsage, "--attach %s: it takes stdin, stdout or stderr", w)
		}
	}
	is := func(name string) bool {
		return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w string) bool { return strings.EqualFold(w, name) })
	}
	if !is("stdout") {
		st.Stdout = io.Discard
	}
	if !is("stderr") {
		st.Stderr = io.Discard
	}
	if spec.Services[0].Stdin && is("stdin") {
		st.Stdin = f.c.App.Reader
	}
	return st, nil
}

func (f *foreground) watch(r *api.SubmitResult, streams api.ClientStreams, tty bool) (int, error) {
	t, err := f.placed(r)
	if err != nil {
		return 0, err
	}
	if name := f.c.String("cidfile"); name != "" {
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			_, err = file.WriteString(string(t.ID))
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return 0, err
		}
	}
	a := &attachTo{
		s: f.s, cl: f.cl, task: string(t.ID), tty: tty, keys: f.c.String("detach-keys"), proxy: f.c.Bool("sig-proxy"), streams: streams,
		request: api.AttachRequest{Wait: true, EndStdin: true}, onNote: f.progress,
	}
	a.streams.Stdout, a.streams.Stderr = clearing{f, streams.Stdout}, clearing{f, streams.Stderr}
	return a.run(f.c)
}

// placePatience is how long a run waits for room before it gives up.
const placePatience = 10 * time.Second

// placed waits for the task.
func (f *foreground) placed(r *api.SubmitResult) (*api.Task, error) {
	ctx, cancel := context.WithTimeout(f.c.Context, placePatience)
	defer cancel()
	q := api.TaskQuery{Job: f.name, All: true}
	if r.Index > 0 {
		q.After, q.Wait = r.Index-1, pollWait
	}
	reason := "no leader has placed it"
	for {
		list, err := f.cl.Tasks(ctx, q)
		switch {
		case f.c.Context.Err() != nil:
			return nil, f.c.Context.Err()
		case ctx.Err() != nil:
			return nil, job.Errorf(job.Unavailable, "it was not placed in %v: %s", placePatience, reason)
		case err != nil && job.KindOf(err) != job.Unavailable && job.KindOf(err) != job.NotFound:
			return nil, err
		case err != nil:
			_ = pause(ctx, retryPause)
			continue
		case len(list.Tasks) > 0:
			return &list.Tasks[0], nil
		}
		if len(list.Blocked) > 0 && list.Blocked[0].Reason != reason {
			reason = list.Blocked[0].Reason
			f.s.note("waiting to be placed: %s", reason)
		}
		q.After, q.Wait = list.Index, pollWait
		if list.Stale {
			_ = pause(ctx, retryPause)
		}
	}
}

// ran tells whether the program was started.
func (f *foreground) ran() bool {
	list, err := f.cl.Tasks(context.WithoutCancel(f.c.Context), api.TaskQuery{Job: f.name, All: true})
	if err != nil {
		return true
	}
	for _, t := range list.Tasks {
		if t.Status != nil && t.Status.At[job.Running] != (time.Time{}) {
			return true
		}
	}
	return false
}

// removePatience bounds the removal at the end of a run.
const removePatience = 10 * time.Second

func (f *foreground) remove() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.c.Context), removePatience)
	defer cancel()
	err := persist(ctx, f.s, f.cl, func() error { return f.cl.RemoveJob(ctx, f.name) })
	if err != nil && job.KindOf(err) != job.NotFound {
		f.s.note("it could not be removed: %v; `shoal rm %s` does it", err, f.name)
	}
}

// progress shows the pull of an image on a terminal.
func (f *foreground) progress(n api.Note) {
	if !f.s.live || n.State != string(job.Pulling) {
		return
	}
	_, _ = io.WriteString(f.s.err, "\r\x1b[K"+describeNote(n)) // a terminal that is gone shows nothing
	f.told = true
}

func (f *foreground) clear() {
	if f.told {
		_, _ = io.WriteString(f.s.err, "\r\x1b[K") // the same
		f.told = false
	}
}

// clearing takes the line of progress away before the first output.
type clearing struct {
	f *foreground
	w io.Writer
}

func (c clearing) Write(p []byte) (int, error) {
	c.f.clear()
	return c.w.Write(p)
}
