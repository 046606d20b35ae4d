package node

import (
	"context"
	"errors"
	"io"
	"unicode/utf8"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime"
	"shoal/runtime/image"
)

// container finds the container of a task that runs (or ran) here. The task may be named as people do.
func (n *Node) container(ctx context.Context, ref string) (job.TaskID, runtime.ID, error) {
	id := job.TaskID(ref)
	if c, ok := n.rec.Container(id); ok {
		return id, c, nil
	}
	t, err := n.lookUp(ctx, ref)
	if err != nil {
		return "", "", err
	}
	if c, ok := n.rec.Container(t.ID); ok {
		return t.ID, c, nil
	}
	return "", "", job.Errorf(job.NotFound, "task %s has no container on node %s: %s", t.Name, t.NodeName, whyNoContainer(&t))
}

func whyNoContainer(t *api.Task) string {
	switch s := t.State(); {
	case s == job.Placed || s == job.Pulling:
		return "it is " + string(s) + ", try again in a moment"
	case s.Terminal():
		return "it is " + string(s) + " and was cleaned up"
	}
	return "see `shoal why " + string(t.ID) + "`"
}

// Logs emits a task's log.
func (n *Node) Logs(ctx context.Context, ref string, q api.LogQuery, emit func(api.LogRecord) error) error {
	task, c, err := n.container(ctx, ref)
	if err != nil {
		return err
	}
	rq := runtime.LogQuery{Tail: q.Tail, Since: q.Since, Follow: q.Follow}
	return kindly(n.machine.Runtime.Logs(ctx, c, rq, func(l runtime.LogLine) error {
		r := api.LogRecord{Task: task, Time: l.Time, Stream: string(l.Stream), Partial: l.Partial}
		if utf8.Valid(l.Text) {
			r.Text = string(l.Text)
		} else {
			r.Raw = l.Text
		}
		return emit(r)
	}))
}

// Exec runs a command in a task's container.
func (n *Node) Exec(ctx context.Context, ref string, s *api.ExecSession) (int, error) {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return -1, err
	}
	e := runtime.Exec{
		Args: s.Args, Env: s.Env, WorkingDir: s.WorkingDir, User: s.User, TTY: s.TTY, Privileged: s.Privileged,
		Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr,
	}
	if s.Detach {
		e.Stdin, e.Stdout, e.Stderr, e.Started = nil, nil, nil, s.Release
	}
	sizes, stop := runtimeSizes(s.Resize)
	defer stop()
	e.Resize = sizes
	ctx, leave, done := freed(ctx, s.Free)
	defer done()
	e.Leave = leave
	code, err := n.machine.Runtime.Exec(ctx, c, e)
	return code, kindly(err)
}

// freed parts the two ways in which ctx can end a session's work: with its client or the agent, by the returned context; or
// by leave, so that it goes on without the agent, when it is free by then. done lets go of both.
func freed(ctx context.Context, free func() bool) (work context.Context, leave <-chan struct{}, done func()) {
	work, kill := context.WithCancelCause(context.WithoutCancel(ctx))
	left := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		if free() {
			close(left)
			return
		}
		kill(context.Cause(ctx))
	})
	return work, left, func() {
		stop()
		kill(nil)
	}
}

// runtimeSizes passes a client's terminal sizes on until stop.
func runtimeSizes(from <-chan api.Size) (sizes <-chan runtime.Size, stop func()) {
	to, done := make(chan runtime.Size, 1), make(chan struct{})
	go func() {
		for size := range from {
			select {
			case to <- runtime.Size{Rows: size.Rows, Cols: size.Cols}:
			case <-done:
				return
			}
		}
	}()
	return to, func() { close(done) }
}

// Stats asks the runtime for a task's live figures.
func (n *Node) Stats(ctx context.Context, ref string) (api.TaskStats, error) {
	task, c, err := n.container(ctx, ref)
	if err != nil {
		return api.TaskStats{}, err
	}
	st, err := n.machine.Runtime.Stats(ctx, c)
	if err != nil {
		return api.TaskStats{}, kindly(err)
	}
	return api.TaskStats{
		Task: task, CPU: st.CPU, MemoryBytes: st.MemoryBytes, MemoryLimit: st.MemoryLimit, PIDs: st.PIDs,
		NetReceived: st.NetReceived, NetSent: st.NetSent, BlockRead: st.BlockRead, BlockWritten: st.BlockWritten,
	}, nil
}

// runtimeKinds gives the runtime's and the image store's errors the kinds that travel.
var runtimeKinds = []struct {
	err  error
	kind job.Kind
}{
	{runtime.ErrNotFound, job.NotFound}, {runtime.ErrConflict, job.Conflict}, {runtime.ErrInvalid, job.Invalid},
	{runtime.ErrDenied, job.Denied}, {runtime.ErrBusy, job.Unavailable}, {runtime.ErrNoSpace, job.Unavailable},
	{image.ErrNotFound, job.NotFound}, {image.ErrInvalid, job.Invalid}, {image.ErrDenied, job.Denied}, {image.ErrUnavailable, job.Unavailable},
	{image.ErrInUse, job.Conflict}, {image.ErrCorrupt, job.Unavailable},
}

func kindly(err error) error {
	for _, k := range runtimeKinds {
		if errors.Is(err, k.err) {
			return job.Errorf(k.kind, "%w", err)
		}
	}
	return err
}

// Images lists this node's images.
func (n *Node) Images(context.Context) ([]api.Image, error) {
	list, err := n.machine.Images.List()
	if err != nil {
		return nil, kindly(err)
	}
	return viewImages(list), nil
}

func viewImages(list []image.Image) []api.Image {
	out := make([]api.Image, 0, len(list))
	for _, i := range list {
		out = append(out, viewImage(i))
	}
	return out
}

func viewImage(i image.Image) api.Image {
	return api.Image{ID: string(i.ID), Names: i.Names, Digest: string(i.Manifest), SizeBytes: i.Size, Layers: len(i.Layers), Created: i.Created}
}

// LoadImage takes an archive into this node's store, and has it copied to the nodes that are to keep it.
func (n *Node) LoadImage(ctx context.Context, r io.Reader) ([]api.Image, error) {
	list, err := n.machine.Images.Load(ctx, r, image.LoadOptions{Unpack: true})
	if err != nil {
		return nil, kindly(err)
	}
	if err := n.tellImageNames(ctx, list); err != nil {
		return nil, job.Errorf(job.KindOf(err), "the image is stored here, but the cluster could not be told what its name means now: %w; load it again then", err)
	}
	copies := n.spreadCopies(ctx, list)
	out := viewImages(list)
	for i := range out {
		out[i].Copies = copies
	}
	return out, nil
}

// RemoveImage removes a name or an image from this node's store; a name means whatever its registry says again, and the
// nodes that kept a copy for its sake let it go.
func (n *Node) RemoveImage(ctx context.Context, ref string) error {
	was, _ := n.machine.Images.Get(ref) // nothing: there is at most what is left of a damaged one
	if err := n.machine.Images.Remove(ref); err != nil {
		return kindly(err)
	}
	if err := n.forgetImageName(ctx, ref); err != nil {
		return err
	}
	if name, err := image.ParseName(ref); err == nil && was.Manifest != "" {
		n.releaseCopies(ctx, name.String(), string(was.Manifest))
	}
	return nil
}
