package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"shoal/consensus/job"
)

// net/http lingers for half a second on connections that it closes; it ends by itself.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// script is a Backend that answers what it is told and remembers what it was asked. Its fields are set before it serves,
// or with mu held.
type script struct {
	mu     sync.Mutex
	asked  []string
	leader string // address; "self": this node; "": none
	owner  string // likewise
	holder string
	state  bool
	stale  error // of Confirm
	fail   error // of everything that can fail
	dead   bool  // Probe reaches nobody

	logs      func(ctx context.Context, emit func(LogRecord) error) error
	events    func(ctx context.Context, emit func(job.Event) error) error
	feed      func(ctx context.Context, emit func(FeedFrame) error) error
	run       func(ctx context.Context, s *ExecSession) (int, error)
	load      func(r io.Reader) ([]Image, error)
	transport http.RoundTripper
}

func (b *script) note(format string, args ...any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, fmt.Sprintf(format, args...))
	return b.fail
}

// taken gives what was asked since the last call.
func (b *script) taken() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := strings.Join(b.asked, " ")
	b.asked = nil
	return s
}

func (b *script) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *script) Leader() (string, job.NodeID, bool, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leader, "L", b.leader == "self", b.leader != ""
}

func (b *script) Owner(context.Context, string) (string, job.NodeID, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner == "" {
		return "", "", false, job.Errorf(job.NotFound, "no such task")
	}
	return b.owner, "O", b.owner == "self", nil
}
func (b *script) HasState() bool                { return b.state }
func (b *script) Holder() string                { return b.holder }
func (b *script) Confirm(context.Context) error { return b.stale }
func (b *script) Transport() http.RoundTripper  { return b.transport }

func (b *script) Status(context.Context) (Status, error) { return Status{Name: "x"}, b.note("status") }
func (b *script) Lease(_ context.Context, c Caller, _ LeaseRequest) (LeaseResponse, error) {
	return LeaseResponse{}, b.note("lease %s", c.Node)
}
func (b *script) Rebalance(context.Context, bool) (RebalanceResult, error) {
	return RebalanceResult{}, b.note("rebalance")
}
func (b *script) Failover(_ context.Context, name string, _ FailoverRequest) (FailoverResult, error) {
	return FailoverResult{}, b.note("failover %s", name)
}
func (b *script) Jobs(context.Context) (JobList, error) { return JobList{}, b.note("jobs") }
func (b *script) Job(_ context.Context, name string, _ bool) (JobDetail, error) {
	return JobDetail{}, b.note("job %s", name)
}
func (b *script) Tasks(_ context.Context, q TaskQuery) (TaskList, error) {
	return TaskList{}, b.note("tasks")
}
func (b *script) Task(_ context.Context, id string) (Task, error) {
	return Task{}, b.note("task %s", id)
}
func (b *script) Why(_ context.Context, id string) (Why, error) { return Why{}, b.note("why %s", id) }
func (b *script) Nodes(context.Context) (NodeList, error)       { return NodeList{}, b.note("nodes") }
func (b *script) Tokens(context.Context) ([]job.Token, error)   { return []job.Token{}, b.note("tokens") }
func (b *script) Events(ctx context.Context, _ EventQuery, emit func(job.Event) error) error {
	if err := b.note("events"); err != nil || b.events == nil {
		return err
	}
	return b.events(ctx, emit)
}

func (b *script) Submit(_ context.Context, key string, r SubmitRequest) (SubmitResult, error) {
	return SubmitResult{Job: job.Job{Name: r.Spec.Name}}, b.note("submit %s", r.Spec.Name)
}
func (b *script) Scale(_ context.Context, key, name string, _ ScaleRequest) (SubmitResult, error) {
	return SubmitResult{}, b.note("scale %s", name)
}
func (b *script) StartJob(_ context.Context, key, name string) (SubmitResult, error) {
	return SubmitResult{}, b.note("start %s", name)
}
func (b *script) RestartJob(_ context.Context, key, name string, r RestartRequest) (SubmitResult, error) {
	return SubmitResult{}, b.note("restart %s %v", name, r.Services)
}
func (b *script) StopJob(_ context.Context, name string) error   { return b.note("stop %s", name) }
func (b *script) RemoveJob(_ context.Context, name string) error { return b.note("remove %s", name) }
func (b *script) Drain(_ context.Context, n string, _ *time.Duration) error {
	return b.note("drain %s", n)
}
func (b *script) Activate(_ context.Context, n string) error { return b.note("activate %s", n) }
func (b *script) Promote(_ context.Context, key, name string, r PromoteRequest) (SubmitResult, error) {
	return SubmitResult{}, b.note("promote %s %v", name, r.Services)
}
func (b *script) Fail(_ context.Context, key, name string, r FailRequest) (SubmitResult, error) {
	return SubmitResult{}, b.note("fail %s %v", name, r.Services)
}
func (b *script) SetLabels(_ context.Context, n string, _ LabelsRequest) error {
	return b.note("labels %s", n)
}
func (b *script) Settings(context.Context) (ClusterSettings, error) {
	return ClusterSettings{}, b.note("settings")
}
func (b *script) SetSettings(_ context.Context, r SettingsRequest) error {
	return b.note("set settings %v", r.Settings)
}
func (b *script) SetOvercommit(_ context.Context, n string, _ OvercommitRequest) error {
	return b.note("overcommit %s", n)
}
func (b *script) Rehearse(_ context.Context, r RehearseRequest) (job.Rehearsal, error) {
	return job.Rehearsal{}, b.note("rehearse %s", r.Spec.Name)
}
func (b *script) RemoveNode(_ context.Context, n string, _ bool) error {
	return b.note("rm node %s", n)
}
func (b *script) CreateToken(context.Context, TokenRequest) (TokenCreated, error) {
	return TokenCreated{}, b.note("create token")
}
func (b *script) RemoveToken(_ context.Context, id string) error { return b.note("rm token %s", id) }

func (b *script) Members(context.Context) (MemberList, error) { return MemberList{}, b.note("members") }
func (b *script) Logs(ctx context.Context, task string, _ LogQuery, emit func(LogRecord) error) error {
	if err := b.note("logs %s", task); err != nil || b.logs == nil {
		return err
	}
	return b.logs(ctx, emit)
}
func (b *script) Exec(ctx context.Context, task string, s *ExecSession) (int, error) {
	if err := b.note("exec %s", task); err != nil || b.run == nil {
		return -1, err
	}
	return b.run(ctx, s)
}
func (b *script) Stats(_ context.Context, task string) (TaskStats, error) {
	return TaskStats{}, b.note("stats %s", task)
}
func (b *script) Images(context.Context) ([]Image, error) { return []Image{}, b.note("images") }
func (b *script) LoadImage(_ context.Context, r io.Reader) ([]Image, error) {
	if b.load != nil {
		return b.load(r)
	}
	return []Image{}, b.note("load")
}
func (b *script) PullImage(_ context.Context, ref, _ string, progress func(PullProgress)) (Image, error) {
	if err := b.note("pull %s", ref); err != nil {
		return Image{}, err
	}
	progress(PullProgress{Done: 1, Total: 2})
	return Image{ID: ref}, nil
}

func (b *script) NodeAddr(context.Context, string) (string, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner == "" {
		return "", false, job.Errorf(job.NotFound, "no such node")
	}
	return b.owner, b.owner == "self", nil
}
func (b *script) InspectImage(_ context.Context, ref string) (ImageDetail, error) {
	return ImageDetail{}, b.note("inspect image %s", ref)
}
func (b *script) SaveImages(_ context.Context, w io.Writer, refs []string) error {
	if err := b.note("save images %v", refs); err != nil {
		return err
	}
	_, err := io.WriteString(w, "archive")
	return err
}
func (b *script) TagImage(_ context.Context, ref, name string) error {
	return b.note("tag image %s %s", ref, name)
}
func (b *script) PruneImages(_ context.Context, r PruneRequest) (PruneResult, error) {
	return PruneResult{}, b.note("prune images %v", r.All)
}
func (b *script) VerifyImages(_ context.Context, r VerifyRequest) (VerifyResult, error) {
	return VerifyResult{}, b.note("verify images %v", r.Repair)
}
func (b *script) DiskUsage(context.Context) (DiskUsage, error) { return DiskUsage{}, b.note("df") }
func (b *script) ImagesNeeded(context.Context) (ImagesNeeded, error) {
	return ImagesNeeded{}, b.note("images needed")
}

func (b *script) RemoveImage(_ context.Context, ref string) error { return b.note("rm image %s", ref) }
func (b *script) Debug(context.Context) (any, error)              { return struct{}{}, b.note("debug") }
func (b *script) StateHash(_ context.Context, index uint64, wait time.Duration) (StateHash, error) {
	return StateHash{Index: index}, b.note("state hash %d %v", index, wait)
}

func (b *script) Join(context.Context, JoinRequest) (JoinResponse, error) {
	return JoinResponse{}, b.note("join")
}
func (b *script) Membership(_ context.Context, n job.NodeID) (Membership, error) {
	return Membership{Node: n}, b.note("membership %s", n)
}
func (b *script) Renew(_ context.Context, c Caller, _ RenewRequest) (RenewResponse, error) {
	return RenewResponse{}, b.note("renew %s", c.Node)
}
func (b *script) Register(_ context.Context, c Caller, _ RegisterRequest) error {
	return b.note("register %s", c.Node)
}
func (b *script) Report(_ context.Context, c Caller, _ ReportRequest) error {
	return b.note("report %s", c.Node)
}
func (b *script) NameImages(context.Context, ImageNamesRequest) error { return b.note("name images") }
func (b *script) UnnameImage(_ context.Context, name string) error    { return b.note("unname %s", name) }
func (b *script) Feed(ctx context.Context, n job.NodeID, emit func(FeedFrame) error) error {
	if err := b.note("feed %s", n); err != nil || b.feed == nil {
		return err
	}
	return b.feed(ctx, emit)
}
func (b *script) Routed(_ context.Context, index uint64) (Routed, error) {
	return Routed{Index: index}, b.note("routed %d", index)
}
func (b *script) Probe(_ context.Context, addr string) (ProbeResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return ProbeResult{OK: !b.dead}, nil
}

// machine serves one backend on real sockets, one for each caller. That a certificate says who calls is node's business.
type machine struct {
	t *testing.T
	*script
	server *Server
	cancel context.CancelFunc // stops it
	peers  string             // where other nodes reach it
	id     job.NodeID
	ctx    context.Context
	stops  []func()
}

func newMachine(t *testing.T, id job.NodeID, b *script) *machine {
	t.Helper()
	m := &machine{t: t, script: b, id: id}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.server = NewServer(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = b.note("blobs") }), slog.New(slog.DiscardHandler))
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) { // authenticated below, as in node
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil { // who calls travels in front, where node has the certificate
			_, err = fmt.Fprintf(c, "%-8s", id)
		}
		return c, err
	}}
	b.transport = tr
	t.Cleanup(func() {
		m.stop()
		tr.CloseIdleConnections()
	})
	m.peers = m.serve(func(c net.Conn) Caller {
		var name [8]byte
		_, _ = io.ReadFull(c, name[:])
		return Caller{Access: NodeOnly, Node: job.NodeID(strings.TrimSpace(string(name[:])))}
	}, "tcp")
	return m
}

// stop ends the machine as node does: requests first, then connections; it waits for both.
func (m *machine) stop() {
	m.cancel()
	for _, stop := range m.stops {
		stop()
	}
	m.stops = nil
}

func (m *machine) serve(caller func(net.Conn) Caller, network string) (addr string) {
	m.t.Helper()
	addr = "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(m.t.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		m.t.Fatal(err)
	}
	var work sync.WaitGroup
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			work.Add(1)
			defer work.Done()
			m.server.ServeHTTP(w, r)
		}),
		BaseContext: func(net.Listener) context.Context { return m.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return WithCaller(ctx, caller(c)) },
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	m.stops = append(m.stops, func() {
		_ = s.Close()
		<-served
		work.Wait()
	})
	return l.Addr().String()
}

// client reaches the machine over a unix socket, as somebody with these rights.
func (m *machine) client(a Access) *Client {
	m.t.Helper()
	c := DialUnix(m.serve(func(net.Conn) Caller {
		if a == NodeOnly {
			return Caller{Access: a, Node: "other"}
		}
		return Caller{Access: a, Name: "ada"}
	}, "unix"))
	m.t.Cleanup(c.Close)
	return c
}

// await polls; tests on a busy machine must not be in a hurry.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for start := time.Now(); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func (b *script) Attach(ctx context.Context, task string, r AttachRequest, s *Streams) (int, error) {
	return b.Exec(ctx, task, &ExecSession{ExecRequest{Args: []string{"attach"}, Input: r.Input}, *s})
}

func (b *script) Forward(_ context.Context, task string, r ForwardRequest, s *Streams) error {
	if err := b.note("forward %s %s", task, r.Address); err != nil {
		return err
	}
	_, err := io.Copy(s.Stdout, s.Stdin)
	return err
}

func (b *script) CopyOut(_ context.Context, task string, r CopyOutRequest, to io.Writer) error {
	_, _ = io.WriteString(to, "archive of "+r.Path)
	return b.note("copyout %s", task)
}

func (b *script) CopyIn(_ context.Context, task string, _ CopyInRequest, from io.Reader) error {
	text, _ := io.ReadAll(from)
	return b.note("copyin %s %s", task, text)
}

func (b *script) StatPath(_ context.Context, task, path string) (PathStat, error) {
	return PathStat{Name: path}, b.note("stat %s", task)
}

func (b *script) Changes(_ context.Context, task string) ([]Change, error) {
	return []Change{{"A", "/a"}}, b.note("changes %s", task)
}

func (b *script) Processes(_ context.Context, task string) ([]Process, error) {
	return []Process{{PID: 1}}, b.note("processes %s", task)
}

func (b *script) Container(_ context.Context, task string) (json.RawMessage, error) {
	return json.RawMessage(`{"a":1}`), b.note("container %s", task)
}

func (b *script) Chaos(context.Context) (ChaosStatus, error) {
	return ChaosStatus{Policy: "allow"}, b.note("chaos")
}

func (b *script) JoinGame(_ context.Context, g ChaosGame) error { return b.note("joingame %s", g.ID) }

func (b *script) Inject(_ context.Context, r ChaosRequest) (ChaosFault, error) {
	return ChaosFault{ID: r.ID}, b.note("inject %s", r.Fault)
}

func (b *script) StopGame(_ context.Context, game string) (*ChaosOutcome, error) {
	return nil, b.note("stopgame %s", game)
}

func (b *script) NoteGame(_ context.Context, n ChaosNote) error { return b.note("notegame %s", n.Text) }

func (b *script) SetPaused(_ context.Context, task string, paused bool) error {
	return b.note("paused %s %v", task, paused)
}

func (b *script) Signal(_ context.Context, task, signal string) error {
	return b.note("signal %s %s", task, signal)
}
