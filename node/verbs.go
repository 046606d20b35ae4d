package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime"
)

// startLook is how often one who attaches to a task that is not started yet looks for its container.
const startLook = 5 * time.Millisecond

// Attach joins a client to a task's own streams.
func (n *Node) Attach(ctx context.Context, ref string, r api.AttachRequest, s *api.Streams) (int, error) {
	id, c, err := n.container(ctx, ref)
	if err != nil && r.Wait {
		id, c, err = n.awaitContainer(ctx, ref, s.Note)
	}
	if err != nil {
		return -1, err
	}
	sizes, stop := runtimeSizes(s.Resize)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if r.Wait {
		// A container that cannot be started would be waited for in vain.
		go n.watchFailure(ctx, id, cancel)
	}
	code, err := n.machine.Runtime.Attach(ctx, c, runtime.Attach{
		Stdin: s.Stdin, EndStdin: r.EndStdin, Stdout: s.Stdout, Stderr: s.Stderr, Resize: sizes,
	})
	var failure *job.Error
	if cause := context.Cause(ctx); err != nil && errors.As(cause, &failure) {
		err = failure
	}
	return code, kindly(err)
}

// awaitContainer waits until a task that was placed here has a container, and tells what it waits for.
func (n *Node) awaitContainer(ctx context.Context, ref string, note func(api.Note)) (job.TaskID, runtime.ID, error) {
	t, err := n.lookUp(ctx, ref)
	if err != nil {
		return "", "", err
	}
	look := time.NewTicker(startLook)
	defer look.Stop()
	last := api.Note{}
	for {
		if c, ok := n.rec.Container(t.ID); ok {
			return t.ID, c, nil
		}
		st := n.statusHere(t.ID)
		if st.State.Terminal() {
			return "", "", startFailure(t.Name, st)
		}
		now := api.Note{State: string(st.State)}
		now.Done, now.Total = n.rec.Pulled(t.ID)
		if now != last && note != nil {
			last = now
			note(now)
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return "", "", job.Errorf(job.Unavailable, "%w", context.Cause(ctx))
		}
	}
}

func (n *Node) statusHere(id job.TaskID) job.Status {
	for _, st := range n.rec.Statuses() {
		if st.Task == id {
			return st
		}
	}
	return job.Status{Task: id, State: job.Placed}
}

func startFailure(name string, st job.Status) error {
	return job.Errorf(job.Invalid, "task %s is %s: %s", name, st.State, st.Message)
}

// watchFailure ends ctx when a task fails without its container having been started.
func (n *Node) watchFailure(ctx context.Context, id job.TaskID, cancel context.CancelCauseFunc) {
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		st := n.statusHere(id)
		if _, ran := st.At[job.Running]; ran {
			return
		}
		if st.State.Terminal() && st.ExitCode == nil {
			cancel(startFailure(string(id), st))
			return
		}
	}
}

// Forward carries a connection into a task's network.
func (n *Node) Forward(ctx context.Context, ref string, r api.ForwardRequest, s *api.Streams) error {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return err
	}
	addresses := []string{r.Address}
	if strings.HasPrefix(r.Address, ":") {
		in, err := n.machine.Runtime.Inspect(ctx, c)
		if err != nil {
			return kindly(err)
		}
		addresses = []string{"127.0.0.1" + r.Address}
		if in.Address.IsValid() {
			addresses = []string{net.JoinHostPort(in.Address.String(), r.Address[1:]), addresses[0]}
		}
	}
	var conn net.Conn
	for _, a := range addresses { // a program may listen only where nobody else comes
		if conn, err = n.machine.Runtime.Dial(ctx, c, r.Network, a); err == nil {
			break
		}
	}
	if err != nil {
		return kindly(err)
	}
	return carry(ctx, conn, s)
}

// carry copies both ways; each direction ends by itself, and all of it with ctx.
func carry(ctx context.Context, conn net.Conn, s *api.Streams) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if s.Stdin != nil {
		go func() { // ends with the client's stdin or, at the next write, with the connection
			_, err := io.Copy(conn, s.Stdin)
			half, ok := conn.(interface{ CloseWrite() error })
			if err != nil || !ok {
				conn.Close()
				return
			}
			_ = half.CloseWrite() // what the other side does not take, the copy below notices
		}()
	}
	_, err := io.Copy(s.Stdout, conn)
	if err != nil && (ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)) {
		return nil // we hung up ourselves
	}
	if err != nil {
		return job.Errorf(job.Unavailable, "the connection to the task broke: %w", err)
	}
	return nil
}

// CopyOut archives a path of a task.
func (n *Node) CopyOut(ctx context.Context, ref string, r api.CopyOutRequest, to io.Writer) error {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return err
	}
	return kindly(n.machine.Runtime.CopyOut(ctx, c, runtime.CopyOut{Path: r.Path, Follow: r.Follow}, to))
}

// CopyIn unpacks an archive in a task.
func (n *Node) CopyIn(ctx context.Context, ref string, r api.CopyInRequest, from io.Reader) error {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return err
	}
	return kindly(n.machine.Runtime.CopyIn(ctx, c, runtime.CopyIn{Path: r.Path, Owners: r.Owners, NoOverwrite: r.NoOverwrite}, from))
}

// StatPath looks at a file in a task.
func (n *Node) StatPath(ctx context.Context, ref, path string) (api.PathStat, error) {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return api.PathStat{}, err
	}
	st, err := n.machine.Runtime.StatPath(ctx, c, path)
	if err != nil {
		return api.PathStat{}, kindly(err)
	}
	return *viewPath(&st), nil
}

func viewPath(p *runtime.PathStat) *api.PathStat {
	v := &api.PathStat{Name: p.Name, Mode: p.Mode, Size: p.Size, ModAt: p.ModAt, Link: p.Link}
	if p.Target != nil {
		v.Target = viewPath(p.Target)
	}
	return v
}

// Changes lists how a task's files differ from its image's.
func (n *Node) Changes(ctx context.Context, ref string) ([]api.Change, error) {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return nil, err
	}
	list, err := n.machine.Runtime.Changes(ctx, c)
	out := make([]api.Change, len(list))
	for i, ch := range list {
		out[i] = api.Change(ch)
	}
	return out, kindly(err)
}

// Processes lists a task's processes.
func (n *Node) Processes(ctx context.Context, ref string) ([]api.Process, error) {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return nil, err
	}
	list, err := n.machine.Runtime.Processes(ctx, c)
	out := make([]api.Process, len(list))
	for i, p := range list {
		out[i] = api.Process(p)
	}
	return out, kindly(err)
}

// Container tells what the runtime knows of a task's container.
func (n *Node) Container(ctx context.Context, ref string) (json.RawMessage, error) {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return nil, err
	}
	in, err := n.machine.Runtime.Inspect(ctx, c)
	if err != nil {
		return nil, kindly(err)
	}
	return json.Marshal(in)
}

// SetPaused pauses a task or lets it go on.
func (n *Node) SetPaused(ctx context.Context, ref string, paused bool) error {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return err
	}
	if paused {
		return kindly(n.machine.Runtime.Pause(ctx, c))
	}
	return kindly(n.machine.Runtime.Resume(ctx, c))
}

// Signal sends a signal to a task's first process.
func (n *Node) Signal(ctx context.Context, ref, signal string) error {
	_, c, err := n.container(ctx, ref)
	if err != nil {
		return err
	}
	return kindly(n.machine.Runtime.Signal(ctx, c, signal))
}
