package api

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"time"
)

// AttachRequest joins the client to a task's own streams.
type AttachRequest struct {
	Input    bool  `json:"stdin,omitempty"`    // there will be stdin
	EndStdin bool  `json:"endStdin,omitempty"` // the end of stdin is the end of the task's input
	Wait     bool  `json:"wait,omitempty"`     // for a task that is not started yet, with Notes meanwhile
	Size     *Size `json:"size,omitempty"`
}

func (r *AttachRequest) opens() (bool, *Size, error) { return r.Input, r.Size, nil }

// ForwardRequest connects the session's stdin and stdout to an address as the task sees it.
type ForwardRequest struct {
	Network string `json:"network"` // tcp, udp: then each Read of stdin is a packet, and each packet a Write
	Address string `json:"address"` // "127.0.0.1:80"; ":80" is at the task's own address, or if that refuses at 127.0.0.1
}

func (r *ForwardRequest) opens() (bool, *Size, error) { return true, nil, nil }

// CopyOutRequest asks for a tar archive of a path, as the session's stdout.
type CopyOutRequest struct {
	Path   string `json:"path"`
	Follow bool   `json:"follow,omitempty"` // a link that the path ends with
}

func (r *CopyOutRequest) opens() (bool, *Size, error) { return false, nil, nil }

// CopyInRequest unpacks the session's stdin, a tar archive, into a directory of the task.
type CopyInRequest struct {
	Path        string `json:"path"`
	Owners      bool   `json:"owners,omitempty"`      // keep the archive's
	NoOverwrite bool   `json:"noOverwrite,omitempty"` // no file in a directory's place, and the other way round
}

func (r *CopyInRequest) opens() (bool, *Size, error) { return true, nil, nil }

// Process of a task, as runtime.Process.
type Process struct {
	PID     int           `json:"pid"`
	Parent  int           `json:"parent"`
	User    string        `json:"user"`
	State   string        `json:"state"`
	Started time.Time     `json:"started"`
	CPU     time.Duration `json:"cpu"`    // nanoseconds
	Memory  int64         `json:"memory"` // bytes
	Command string        `json:"command"`
}

// PathStat of a file in a task, as runtime.PathStat.
type PathStat struct {
	Name   string    `json:"name"`
	Mode   uint32    `json:"mode"` // io/fs.FileMode
	Size   int64     `json:"size"`
	ModAt  time.Time `json:"modAt"`
	Link   string    `json:"link,omitempty"`
	Target *PathStat `json:"target,omitempty"`
}

// IsDir tells whether it is a directory, or a link that leads to one.
func (p *PathStat) IsDir() bool {
	return fs.FileMode(p.Mode).IsDir() || p.Target != nil && fs.FileMode(p.Target.Mode).IsDir()
}

// Change of a task's files against its image's, as runtime.Change.
type Change struct {
	Kind string `json:"kind"` // A, C or D
	Path string `json:"path"`
}

// Hands are what the owner of a task does with it for people. Errors are those of the runtime, with a kind.
type Hands interface {
	// Attach blocks until the task's container ended, and gives its exit code, or ctx ends.
	Attach(ctx context.Context, task string, r AttachRequest, s *Streams) (exitCode int, err error)
	Forward(ctx context.Context, task string, r ForwardRequest, s *Streams) error
	CopyOut(ctx context.Context, task string, r CopyOutRequest, to io.Writer) error
	CopyIn(ctx context.Context, task string, r CopyInRequest, from io.Reader) error
	StatPath(ctx context.Context, task, path string) (PathStat, error)
	Changes(ctx context.Context, task string) ([]Change, error)
	Processes(ctx context.Context, task string) ([]Process, error)
	// Container tells all that the task's node knows of its container, as JSON.
	Container(ctx context.Context, task string) (json.RawMessage, error)
	SetPaused(ctx context.Context, task string, paused bool) error
	Signal(ctx context.Context, task, signal string) error
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	var req AttachRequest
	s.session(w, r, &req, func(ctx context.Context, st *Streams) (int, error) {
		return s.backend.Attach(ctx, r.PathValue("task"), req, st)
	})
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	var req ForwardRequest
	s.session(w, r, &req, func(ctx context.Context, st *Streams) (int, error) {
		return 0, s.backend.Forward(ctx, r.PathValue("task"), req, st)
	})
}

func (s *Server) copyOut(w http.ResponseWriter, r *http.Request) {
	var req CopyOutRequest
	s.session(w, r, &req, func(ctx context.Context, st *Streams) (int, error) {
		return 0, s.backend.CopyOut(ctx, r.PathValue("task"), req, st.Stdout)
	})
}

func (s *Server) copyIn(w http.ResponseWriter, r *http.Request) {
	var req CopyInRequest
	s.session(w, r, &req, func(ctx context.Context, st *Streams) (int, error) {
		return 0, s.backend.CopyIn(ctx, r.PathValue("task"), req, st.Stdin)
	})
}

func (s *Server) statPath(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.StatPath(r.Context(), r.PathValue("task"), r.URL.Query().Get("path"))
	answer(w, v, err)
}

func (s *Server) changes(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Changes(r.Context(), r.PathValue("task"))
	answer(w, v, err)
}

func (s *Server) processes(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Processes(r.Context(), r.PathValue("task"))
	answer(w, v, err)
}

func (s *Server) container(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Container(r.Context(), r.PathValue("task"))
	answer(w, v, err)
}

func (s *Server) pauseTask(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.SetPaused(r.Context(), r.PathValue("task"), true))
}

func (s *Server) unpauseTask(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.SetPaused(r.Context(), r.PathValue("task"), false))
}

func (s *Server) killTask(w http.ResponseWriter, r *http.Request) {
	signal := r.URL.Query().Get("signal")
	if signal == "" {
		signal = "KILL"
	}
	done(w, s.backend.Signal(r.Context(), r.PathValue("task"), signal))
}

// Attach joins streams to a task's own and gives the exit code when its container ends. ErrDetached when the client left.
func (c *Client) Attach(ctx context.Context, task string, r AttachRequest, st *ClientStreams) (int, error) {
	r.Input = st.Stdin != nil
	return c.session(ctx, task, "attach", r, st)
}

// Forward carries one connection to an address as the task sees it, until either side ends it.
func (c *Client) Forward(ctx context.Context, task string, r ForwardRequest, in io.Reader, out io.Writer) error {
	_, err := c.session(ctx, task, "forward", r, &ClientStreams{Stdin: in, Stdout: out})
	return err
}

// CopyOut writes a tar archive of what is at a path in a task.
func (c *Client) CopyOut(ctx context.Context, task string, r CopyOutRequest, to io.Writer) error {
	_, err := c.session(ctx, task, "copyout", r, &ClientStreams{Stdout: to})
	return err
}

// CopyIn unpacks a tar archive in a task.
func (c *Client) CopyIn(ctx context.Context, task string, r CopyInRequest, from io.Reader) error {
	_, err := c.session(ctx, task, "copyin", r, &ClientStreams{Stdin: from})
	return err
}

func ofTask(task, what string) string { return "/v1/tasks/" + url.PathEscape(task) + "/" + what }

// StatPath looks at a file in a task.
func (c *Client) StatPath(ctx context.Context, task, path string) (PathStat, error) {
	return get[PathStat](ctx, c, ofTask(task, "stat"), url.Values{"path": {path}})
}

// Changes lists how a task's files differ from its image's.
func (c *Client) Changes(ctx context.Context, task string) ([]Change, error) {
	return get[[]Change](ctx, c, ofTask(task, "changes"), nil)
}

// Processes lists a task's processes.
func (c *Client) Processes(ctx context.Context, task string) ([]Process, error) {
	return get[[]Process](ctx, c, ofTask(task, "processes"), nil)
}

// Container tells all that a task's node knows of its container.
func (c *Client) Container(ctx context.Context, task string) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, ofTask(task, "container"), nil)
}

// SetPaused pauses a task or lets it go on.
func (c *Client) SetPaused(ctx context.Context, task string, paused bool) error {
	what := "pause"
	if !paused {
		what = "unpause"
	}
	return c.do(ctx, "POST", ofTask(task, what), nil, nil, nil, "")
}

// Signal sends a signal to a task's first process; "" is KILL.
func (c *Client) Signal(ctx context.Context, task, signal string) error {
	return c.do(ctx, "POST", ofTask(task, "kill"), url.Values{"signal": {signal}}, nil, nil, "")
}
