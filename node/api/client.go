package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"
)

// Client speaks the protocol to one node. It is safe for concurrent use.
type Client struct {
	base string // "http://shoal" over the socket, else https://host:port
	http *http.Client
	dial func(ctx context.Context) (net.Conn, error)
	name string // of the node asked, for messages
	most int64  // bytes of one value of an answer
}

// DialUnix makes a client of the agent behind a unix socket. Nothing is sent yet.
func DialUnix(path string) *Client {
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			return nil, socketError(path, err)
		}
		return conn, nil
	}
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	return &Client{base: "http://shoal", http: &http.Client{Transport: t}, dial: dial, name: path, most: maxAnswerBytes}
}

func socketError(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return job.Errorf(job.Denied, "socket %s: permission denied; run as root", path)
	case errors.Is(err, os.ErrNotExist):
		return job.Errorf(job.Unavailable, "no agent listens on %s: start one with `shoal agent`, or name another socket with --host", path)
	}
	return job.Errorf(job.Unavailable, "no agent answers on %s (%w): is `shoal agent` running?", path, err)
}

// DialTLS makes a client of a node at addr ("host:port"). conf must offer only HTTP/1.1, so that exec can upgrade.
func DialTLS(addr string, conf *tls.Config) *Client {
	dial := func(ctx context.Context) (net.Conn, error) {
		d := tls.Dialer{Config: conf, NetDialer: &net.Dialer{Timeout: 5 * time.Second}}
		return d.DialContext(ctx, "tcp", addr)
	}
	t := &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }, MaxIdleConnsPerHost: 8}
	return &Client{base: "https://" + addr, http: &http.Client{Transport: t}, dial: dial, name: addr, most: maxAnswerBytes}
}

// NewClient makes a client over a transport that somebody else keeps, such as a node's own. It cannot exec.
func NewClient(addr string, t http.RoundTripper) *Client {
	return &Client{base: "https://" + addr, http: &http.Client{Transport: t}, name: addr, most: maxAnswerBytes}
}

// Close frees idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// NewKey makes an idempotency key: give the same one to a retry.
func NewKey() string { return rand.Text() }

// checkPath refuses a path made with a name that is empty or only dots: it would mean another path.
func checkPath(path string) error {
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if name == "" || name == "." || name == ".." {
			return job.Errorf(job.Invalid, "%q is no name of anything", name)
		}
	}
	return nil
}

func (c *Client) request(ctx context.Context, method, path string, q url.Values, body io.Reader, key string) (*http.Response, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	u := c.base + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set(headerKey, key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	if tell, ok := ctx.Value(whenStaleKey{}).(func()); ok && resp.Header.Get(headerStale) != "" {
		tell()
	}
	return resp, nil
}

type whenStaleKey struct{}

// WhenStale makes a context with which tell is called when the answer to a read is what a node last knew, before anything of it
// is given: for those reads whose answers have no Meta. Nodes of before this build say it only there.
func WhenStale(ctx context.Context, tell func()) context.Context {
	return context.WithValue(ctx, whenStaleKey{}, tell)
}

// transportError keeps an error that has a kind already and says which node was asked otherwise.
func (c *Client) transportError(ctx context.Context, err error) error {
	var e *job.Error
	if errors.As(err, &e) {
		return e
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return job.Errorf(job.Unavailable, "ask %s: %w", c.name, err)
}

func (c *Client) do(ctx context.Context, method, path string, q url.Values, in, out any, key string) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.request(ctx, method, path, q, body, key)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		out = &struct{}{} // that it was done is said too; net/http makes a 200 of a server that says nothing
	}
	if err := json.NewDecoder(c.bounded(resp.Body)).Decode(out); err != nil {
		return job.Errorf(job.Unavailable, "%s %s: the answer of %s broke off: %w", method, path, c.name, err)
	}
	return nil
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	var v T
	err := c.do(ctx, "GET", path, q, nil, &v, "")
	return v, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (T, error) {
	var v T
	err := c.do(ctx, "POST", path, nil, in, &v, "")
	return v, err
}

// Status asks the node about itself.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status", nil)
}

// Jobs lists all jobs.
func (c *Client) Jobs(ctx context.Context) (JobList, error) {
	return get[JobList](ctx, c, "/v1/jobs", nil)
}

// Job tells one job, with its kept versions if asked.
func (c *Client) Job(ctx context.Context, name string, versions bool) (JobDetail, error) {
	q := url.Values{}
	if versions {
		q.Set("versions", "1")
	}
	return get[JobDetail](ctx, c, "/v1/jobs/"+url.PathEscape(name), q)
}

// Submit makes a job be as its spec says. Use one key for all tries of one submit.
func (c *Client) Submit(ctx context.Context, key string, r SubmitRequest) (SubmitResult, error) {
	var v SubmitResult
	err := c.do(ctx, "PUT", "/v1/jobs/"+url.PathEscape(r.Spec.Name), nil, r, &v, key)
	return v, err
}

// Scale sets replicas of services of a job.
func (c *Client) Scale(ctx context.Context, key, name string, replicas map[string]int) (SubmitResult, error) {
	var v SubmitResult
	err := c.do(ctx, "POST", "/v1/jobs/"+url.PathEscape(name)+"/scale", nil, ScaleRequest{Replicas: replicas}, &v, key)
	return v, err
}

// StopJob stops all tasks of a job and keeps the job.
func (c *Client) StopJob(ctx context.Context, name string) error {
	return c.do(ctx, "POST", "/v1/jobs/"+url.PathEscape(name)+"/stop", nil, nil, nil, "")
}

// StartJob wants the tasks of a stopped job again.
func (c *Client) StartJob(ctx context.Context, key, name string) (SubmitResult, error) {
	var v SubmitResult
	err := c.do(ctx, "POST", "/v1/jobs/"+url.PathEscape(name)+"/start", nil, nil, &v, key)
	return v, err
}

// RemoveJob stops all tasks of a job and forgets it.
func (c *Client) RemoveJob(ctx context.Context, name string) error {
	return c.do(ctx, "DELETE", "/v1/jobs/"+url.PathEscape(name), nil, nil, nil, "")
}

// Tasks lists tasks.
func (c *Client) Tasks(ctx context.Context, t TaskQuery) (TaskList, error) {
	q := url.Values{}
	for k, v := range map[string]string{"job": t.Job, "service": t.Service, "node": string(t.Node)} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if t.All {
		q.Set("all", "1")
	}
	if t.After > 0 {
		q.Set("after", strconv.FormatUint(t.After, 10))
	}
	if t.Wait > 0 {
		q.Set("wait", t.Wait.String())
	}
	return get[TaskList](ctx, c, "/v1/tasks", q)
}

// Task tells one task by id or unique prefix.
func (c *Client) Task(ctx context.Context, id string) (Task, error) {
	return get[Task](ctx, c, "/v1/tasks/"+url.PathEscape(id), nil)
}

// Why tells the timeline of a task.
func (c *Client) Why(ctx context.Context, id string) (Why, error) {
	return get[Why](ctx, c, "/v1/tasks/"+url.PathEscape(id)+"/why", nil)
}

// Logs calls emit for each line of a task's log until its end, or with Follow until ctx ends.
func (c *Client) Logs(ctx context.Context, task string, l LogQuery, emit func(LogRecord) error) error {
	q := url.Values{}
	if l.Follow {
		q.Set("follow", "1")
	}
	if l.Tail != 0 {
		q.Set("tail", strconv.Itoa(l.Tail))
	}
	if !l.Since.IsZero() {
		q.Set("since", l.Since.Format(time.RFC3339Nano))
	}
	return readStream(ctx, c, "GET", "/v1/tasks/"+url.PathEscape(task)+"/logs", q, emit)
}

// Events calls emit for each event until the end, or with Follow until ctx ends.
func (c *Client) Events(ctx context.Context, e EventQuery, emit func(job.Event) error) error {
	q := url.Values{}
	if e.Job != "" {
		q.Set("job", e.Job)
	}
	if e.Task != "" {
		q.Set("task", string(e.Task))
	}
	if e.After > 0 {
		q.Set("after", strconv.FormatUint(e.After, 10))
	}
	if e.Follow {
		q.Set("follow", "1")
	}
	return readStream(ctx, c, "GET", "/v1/events", q, emit)
}

// readStream decodes newline-delimited values until the stream ends.
func readStream[T any](ctx context.Context, c *Client, method, path string, q url.Values, emit func(T) error) error {
	resp, err := c.request(ctx, method, path, q, nil, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := c.bounded(resp.Body)
	d := json.NewDecoder(body)
	for {
		body.next()
		var v T
		if err := d.Decode(&v); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return c.transportError(ctx, err)
		}
		if err := emit(v); err != nil {
			return err
		}
	}
}

// Stats asks a task's node for its live figures.
func (c *Client) Stats(ctx context.Context, task string) (TaskStats, error) {
	return get[TaskStats](ctx, c, "/v1/tasks/"+url.PathEscape(task)+"/stats", nil)
}

// Nodes lists all nodes.
func (c *Client) Nodes(ctx context.Context) (NodeList, error) {
	return get[NodeList](ctx, c, "/v1/nodes", nil)
}

// SetLabels changes a node's labels; an empty value removes one.
func (c *Client) SetLabels(ctx context.Context, node string, labels map[string]string) error {
	return c.do(ctx, "POST", "/v1/nodes/"+url.PathEscape(node)+"/labels", nil, LabelsRequest{Labels: labels}, nil, "")
}

// RemoveNode forgets a node that is down or left; force also one that is not.
func (c *Client) RemoveNode(ctx context.Context, node string, force bool) error {
	q := url.Values{}
	if force {
		q.Set("force", "1")
	}
	return c.do(ctx, "DELETE", "/v1/nodes/"+url.PathEscape(node), q, nil, nil, "")
}

// Members asks the node for its view of the gossip.
func (c *Client) Members(ctx context.Context) (MemberList, error) {
	return get[MemberList](ctx, c, "/v1/members", nil)
}

// Tokens lists join tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]job.Token, error) {
	return get[[]job.Token](ctx, c, "/v1/tokens", nil)
}

// CreateToken makes a join token.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (TokenCreated, error) {
	return post[TokenCreated](ctx, c, "/v1/tokens", r)
}

// RemoveToken revokes a join token.
func (c *Client) RemoveToken(ctx context.Context, id string) error {
	return c.do(ctx, "DELETE", "/v1/tokens/"+url.PathEscape(id), nil, nil, nil, "")
}

// Images lists the asked node's images.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	return get[[]Image](ctx, c, "/v1/images", nil)
}

// LoadImage streams an archive into the asked node's store.
func (c *Client) LoadImage(ctx context.Context, r io.Reader) ([]Image, error) {
	resp, err := c.request(ctx, "POST", "/v1/images/load", nil, r, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var v []Image
	err = json.NewDecoder(c.bounded(resp.Body)).Decode(&v)
	return v, err
}

// PullImage makes the asked node pull an image.
func (c *Client) PullImage(ctx context.Context, ref string, progress func(PullProgress)) (Image, error) {
	return c.pullImage(ctx, url.Values{"ref": {ref}}, progress)
}

func (c *Client) pullImage(ctx context.Context, q url.Values, progress func(PullProgress)) (Image, error) {
	var last Image
	err := readStream(ctx, c, "POST", "/v1/images/pull", q, func(p PullProgress) error {
		switch {
		case p.Error != nil:
			return p.Error.err()
		case p.Image != nil:
			last = *p.Image
		case progress != nil:
			progress(p)
		}
		return nil
	})
	if err == nil && last.ID == "" {
		err = job.Errorf(job.Unavailable, "pull %s: the answer of %s broke off", q.Get("ref"), c.name)
	}
	return last, err
}

// RemoveImage removes a name or an image from the asked node's store.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.do(ctx, "DELETE", "/v1/images", url.Values{"ref": {ref}}, nil, nil, "")
}

// Debug collects what the asked node's parts say of themselves.
func (c *Client) Debug(ctx context.Context) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, "/v1/debug", nil)
}

// Exec runs a command in a task's container and blocks until it ended. ctx ends the connection, and with it the command.
func (c *Client) Exec(ctx context.Context, task string, e *ClientExec) (int, error) {
	e.Input = e.Stdin != nil
	return c.session(ctx, task, "exec", e.ExecRequest, &e.ClientStreams)
}

// session upgrades a connection to a route of a task and speaks on it until its end.
func (c *Client) session(ctx context.Context, task, route string, request any, st *ClientStreams) (int, error) {
	if c.dial == nil {
		return -1, job.Errorf(job.Internal, "%s: this client has no connection of its own", route)
	}
	path := "/v1/tasks/" + url.PathEscape(task) + "/" + route
	if err := checkPath(path); err != nil {
		return -1, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return -1, c.transportError(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, "POST", c.base+path, nil)
	if err != nil {
		return -1, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", execProtocol)
	if err := req.Write(conn); err != nil {
		return -1, c.transportError(ctx, err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return -1, c.transportError(ctx, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		if resp.StatusCode/100 == 2 {
			return -1, job.Errorf(job.Internal, "%s: the node did not upgrade the connection", route)
		}
		return -1, readError(resp)
	}
	return st.runClient(conn, in, request)
}

// Join asks a peer to make this machine a member.
func (c *Client) Join(ctx context.Context, r JoinRequest) (JoinResponse, error) {
	return post[JoinResponse](ctx, c, "/v1/join", r)
}

// Membership asks the leader whether a node is a member.
func (c *Client) Membership(ctx context.Context, node job.NodeID) (Membership, error) {
	return get[Membership](ctx, c, "/v1/membership", url.Values{"node": {string(node)}})
}

// Renew asks for a new certificate.
func (c *Client) Renew(ctx context.Context, r RenewRequest) (RenewResponse, error) {
	return post[RenewResponse](ctx, c, "/v1/renew", r)
}

// Register tells the cluster what this node is now.
func (c *Client) Register(ctx context.Context, r RegisterRequest) error {
	return c.do(ctx, "POST", "/v1/register", nil, r, nil, "")
}

// Report carries statuses to the leader.
func (c *Client) Report(ctx context.Context, r ReportRequest) error {
	return c.do(ctx, "POST", "/v1/report", nil, r, nil, "")
}

// NameImages tells the cluster what names of images mean from now on.
func (c *Client) NameImages(ctx context.Context, r ImageNamesRequest) error {
	return c.do(ctx, "POST", "/v1/imagenames", nil, r, nil, "")
}

// UnnameImage makes a name mean whatever its registry says again.
func (c *Client) UnnameImage(ctx context.Context, name string) error {
	return c.do(ctx, "DELETE", "/v1/imagenames", url.Values{"name": {name}}, nil, nil, "")
}

// Feed follows a node's feed until ctx ends or the stream breaks.
func (c *Client) Feed(ctx context.Context, node job.NodeID, emit func(FeedFrame) error) error {
	err := readStream(ctx, c, "GET", "/v1/feed", url.Values{"node": {string(node)}}, emit)
	if err == nil {
		return fmt.Errorf("feed from %s ended", c.name)
	}
	return err
}

// Probe asks the node to reach an address by TCP.
func (c *Client) Probe(ctx context.Context, addr string) (ProbeResult, error) {
	return get[ProbeResult](ctx, c, "/v1/probe", url.Values{"addr": {addr}})
}
