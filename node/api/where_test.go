package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
)

func TestReadsComeFromTheLeaderOrAreMarkedStale(t *testing.T) {
	t.Parallel()
	leader := newMachine(t, "L", &script{leader: "self", state: true})
	holder := newMachine(t, "H", &script{state: true})
	hung, _ := hungNode(t)
	for _, c := range []struct {
		name  string
		b     *script
		stale bool
		fails bool
		from  *machine // nil: here
	}{
		{"the leader itself", &script{leader: "self", state: true}, false, false, nil},
		{"a leader that cannot confirm", &script{leader: "self", state: true, stale: job.Unavailable}, true, false, nil},
		{"another leads", &script{leader: leader.peers, state: true}, false, false, leader},
		{"another leads, no log here", &script{leader: leader.peers}, false, false, leader},
		{"no leader, the log is here", &script{state: true}, true, false, nil},
		{"no leader, no log here, a holder", &script{holder: holder.peers}, true, false, holder},
		{"the leader is out of reach", &script{leader: "192.0.2.1:1", state: true, dead: true}, true, false, nil},
		{"the leader refuses connections", &script{leader: "127.0.0.1:1", state: true}, true, false, nil},
		{"the leader takes connections and says nothing", &script{leader: hung, state: true}, true, false, nil},
		{"the leader is gone, no log here, a holder", &script{leader: "127.0.0.1:1", holder: holder.peers}, true, false, holder},
		{"nobody", &script{}, false, true, nil},
		{"the only holder is gone", &script{holder: "127.0.0.1:1"}, false, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "A", c.b)
			got, err := m.client(Reader).Jobs(context.Background())
			if (err != nil) != c.fails || c.fails && !errors.Is(err, job.Unavailable) {
				t.Fatalf("%v; want failure %v", err, c.fails)
			}
			if got.Stale != c.stale {
				t.Errorf("stale %v, want %v", got.Stale, c.stale)
			}
			here, there := c.b.taken(), leader.taken()+holder.taken()
			if !c.fails && (c.from == nil) != (here == "jobs") || c.from != nil && there != "jobs" {
				t.Errorf("answered here: %q, there: %q", here, there)
			}
		})
	}
}

// hungNode accepts and says nothing, like a machine that was paused. asked is closed when it was asked something.
func hungNode(t *testing.T) (addr string, asked <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan struct{})
	var first sync.Once
	var all sync.WaitGroup
	all.Go(func() {
		var conns []net.Conn
		for {
			conn, err := l.Accept()
			if err != nil { // the test is over
				for _, c := range conns {
					_ = c.Close()
				}
				return
			}
			conns = append(conns, conn)
			all.Go(func() {
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					first.Do(func() { close(came) })
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return l.Addr().String(), came
}

func TestChangesWaitForAnElection(t *testing.T) {
	b := &script{state: true}
	m := newMachine(t, "A", b)
	time.AfterFunc(200*time.Millisecond, func() { b.set(func() { b.leader = "self" }) })
	if err := m.client(Operator).StopJob(context.Background(), "x"); err != nil || b.taken() != "stop x" {
		t.Errorf("through an election: %v", err)
	}
}

func TestChangesWithoutALeaderFailInTime(t *testing.T) {
	t.Parallel()
	b := &script{state: true}
	c := newMachine(t, "A", b).client(Operator)
	start := time.Now()
	err := c.StopJob(context.Background(), "x")
	if took := time.Since(start); !errors.Is(err, job.Unavailable) || !strings.Contains(err.Error(), "shoal node ls") || took < leaderPatience {
		t.Errorf("%v after %v", err, took)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.StopJob(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that gave up: %v", err)
	}
	if asked := b.taken(); asked != "" {
		t.Errorf("asked %q", asked)
	}
}

func TestAChangeDoesNotWaitForALeaderThatIsNoneAnyMore(t *testing.T) {
	t.Parallel()
	hung, asked := hungNode(t)
	b := &script{leader: hung, state: true}
	m := newMachine(t, "A", b)
	go func() {
		<-asked
		b.set(func() { b.leader = "" })
	}()
	start := time.Now()
	err := m.client(Operator).StopJob(context.Background(), "x")
	if took := time.Since(start); !errors.Is(err, job.Unavailable) || !strings.Contains(err.Error(), "may have been done") || took > answerPatience/2 {
		t.Errorf("%v after %v", err, took)
	}
}

// Found by seed 433434157 of make chaos: the caller of a node that ended had an empty answer of status 200, and took a change
// for done that nobody had made.
func TestANodeThatEndsDoesNotSayThatAChangeIsDone(t *testing.T) {
	t.Parallel()
	hung, asked := hungNode(t)
	b := &script{leader: hung, state: true}
	m := newMachine(t, "A", b)
	c := m.client(Operator)
	go func() {
		<-asked
		m.cancel() // requests first, then connections
	}()
	if err := c.StopJob(context.Background(), "x"); !errors.Is(err, job.Unavailable) || !strings.Contains(err.Error(), "may have been done") {
		t.Errorf("a node that ended while it waited for the leader's answer said: %v", err)
	}
}

func TestAnEmptyAnswerIsNoAnswer(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	c := NewClient(s.Listener.Addr().String(), plain{})
	defer c.Close()
	if err := c.StopJob(context.Background(), "x"); !errors.Is(err, job.Unavailable) || !strings.Contains(err.Error(), "broke off") {
		t.Errorf("an empty answer of status 200: %v", err)
	}
}

// plain speaks HTTP where the client would speak HTTPS.
type plain struct{}

func (plain) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "http"
	return http.DefaultTransport.RoundTrip(r)
}

func TestNothingIsPassedOnTwice(t *testing.T) {
	b, a := &script{}, &script{}
	second, first := newMachine(t, "B", b), newMachine(t, "A", a)
	a.leader, a.owner, a.holder = second.peers, second.peers, second.peers
	b.leader, b.owner, b.holder = first.peers, first.peers, first.peers // they disagree
	c := first.client(Admin)
	_, readErr := c.Jobs(context.Background())
	_, statsErr := c.Stats(context.Background(), "t")
	for what, err := range map[string]error{"change": c.StopJob(context.Background(), "x"), "read": readErr, "owner": statsErr} {
		if !errors.Is(err, job.Unavailable) {
			t.Errorf("%s: %v, want unavailable", what, err)
		}
	}
}

func TestATaskIsAskedWhereItRuns(t *testing.T) {
	owner := newMachine(t, "O", &script{owner: "self"})
	b := &script{owner: owner.peers}
	c := newMachine(t, "A", b).client(Reader)
	if _, err := c.Stats(context.Background(), "shop/web.1"); err != nil || owner.taken() != "stats shop/web.1" {
		t.Errorf("stats: %v", err)
	}
	b.set(func() { b.owner = "127.0.0.1:1" })
	if _, err := c.Stats(context.Background(), "t"); !errors.Is(err, job.Unavailable) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("an owner that is gone: %v", err)
	}
	b.set(func() { b.owner = "" })
	if _, err := c.Stats(context.Background(), "t"); !errors.Is(err, job.NotFound) {
		t.Errorf("no such task: %v", err)
	}
}

func TestStreamsComeAsTheyAreMade(t *testing.T) {
	next := make(chan string)
	b := &script{owner: "self", logs: func(ctx context.Context, emit func(LogRecord) error) error {
		for {
			select {
			case line, more := <-next:
				if !more {
					return job.Errorf(job.Invalid, "the log's disk is gone")
				}
				if err := emit(LogRecord{Text: line}); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}}
	o := newMachine(t, "O", b)
	v := newMachine(t, "V", &script{owner: o.peers})
	for _, c := range []*Client{o.client(Reader), v.client(Reader)} {
		next = make(chan string)
		got := make(chan LogRecord)
		done := make(chan error, 1)
		go func() {
			done <- c.Logs(context.Background(), "t", LogQuery{Follow: true}, func(l LogRecord) error { got <- l; return nil })
		}()
		for _, want := range []string{"one", "two"} {
			next <- want
			if l := <-got; l.Text != want { // before the next is made
				t.Errorf("line %q, want %q", l.Text, want)
			}
		}
		close(next)
		if l := <-got; !strings.Contains(l.Error, "disk is gone") || job.KindOf(l.Err()) != job.Invalid {
			t.Errorf("the stream's end says %+v", l)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if old := (&LogRecord{Error: "why"}); job.KindOf(old.Err()) != job.Unavailable || (&LogRecord{}).Err() != nil {
		t.Errorf("an older node's end of a stream: %v", old.Err())
	}
}

func TestStreamsEndWithTheirReader(t *testing.T) {
	ended := make(chan struct{}, 3)
	b := &script{leader: "self", owner: "self", state: true}
	follow := func(ctx context.Context) error { <-ctx.Done(); ended <- struct{}{}; return ctx.Err() }
	b.logs = func(ctx context.Context, _ func(LogRecord) error) error { return follow(ctx) }
	b.events = func(ctx context.Context, _ func(job.Event) error) error { return follow(ctx) }
	b.feed = func(ctx context.Context, emit func(FeedFrame) error) error {
		_ = emit(FeedFrame{Index: 1})
		return follow(ctx)
	}
	o := newMachine(t, "O", b)
	v := newMachine(t, "V", &script{leader: o.peers, owner: o.peers})
	for name, read := range map[string]func(context.Context) error{
		"logs":   func(ctx context.Context) error { return o.client(Reader).Logs(ctx, "t", LogQuery{Follow: true}, nil) },
		"events": func(ctx context.Context) error { return o.client(Reader).Events(ctx, EventQuery{Follow: true}, nil) },
		"feed": func(ctx context.Context) error {
			return o.client(NodeOnly).Feed(ctx, "other", func(FeedFrame) error { return nil })
		},
		"logs behind":   func(ctx context.Context) error { return v.client(Reader).Logs(ctx, "t", LogQuery{Follow: true}, nil) },
		"events behind": func(ctx context.Context) error { return v.client(Reader).Events(ctx, EventQuery{Follow: true}, nil) },
	} {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- read(ctx) }()
		await(t, name+" to begin", func() bool { return b.taken() != "" })
		cancel()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s goes on without its reader", name)
		}
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAStreamThatAStoppingServerEndsBreaksOff(t *testing.T) {
	for _, through := range []bool{false, true} {
		b := &script{leader: "self", state: true, events: func(ctx context.Context, emit func(job.Event) error) error {
			if err := emit(job.Event{Index: 1}); err != nil {
				return err
			}
			<-ctx.Done()
			return nil // as node does
		}}
		l := newMachine(t, "L", b)
		c := l.client(Reader)
		if through {
			c = newMachine(t, "V", &script{leader: l.peers}).client(Reader)
		}
		got := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- c.Events(context.Background(), EventQuery{Follow: true}, func(job.Event) error { close(got); return nil })
		}()
		<-got
		l.stop()
		if err := <-done; !errors.Is(err, job.Unavailable) {
			t.Errorf("through another node %v: %v, want unavailable, for the history is not at its end", through, err)
		}
	}
}

func TestAFeedIsForItsNodeAlone(t *testing.T) {
	b := &script{state: true}
	c := newMachine(t, "A", b).client(NodeOnly)
	if err := c.Feed(context.Background(), "somebody", func(FeedFrame) error { return nil }); !errors.Is(err, job.Denied) || b.taken() != "" {
		t.Errorf("another's feed: %v", err)
	}
}

func TestImagesStreamInWithoutABoundOfOurs(t *testing.T) {
	const size = 3 << 20
	b := &script{load: func(r io.Reader) ([]Image, error) {
		n, err := io.Copy(io.Discard, r)
		return []Image{{SizeBytes: n}}, err
	}}
	c := newMachine(t, "A", b).client(Operator)
	got, err := c.LoadImage(context.Background(), bytes.NewReader(make([]byte, size)))
	if err != nil || len(got) != 1 || got[0].SizeBytes != size {
		t.Errorf("load: %+v, %v", got, err)
	}
	b.set(func() { b.load = nil; b.fail = job.Errorf(job.Invalid, "no archive") })
	if _, err := c.LoadImage(context.Background(), &endless{n: 8 << 20}); !errors.Is(err, job.Invalid) {
		t.Errorf("a load that is refused before its end: %v", err)
	}
}

func TestPullsTellHowFarTheyAreAndHowTheyEnd(t *testing.T) {
	b := &script{}
	c := newMachine(t, "A", b).client(Operator)
	steps := 0
	i, err := c.PullImage(context.Background(), "../../x:latest", func(PullProgress) { steps++ })
	if err != nil || i.ID != "../../x:latest" || steps != 1 || b.taken() != "pull ../../x:latest" {
		t.Errorf("pull: %+v, %v, %d steps", i, err, steps)
	}
	b.set(func() { b.fail = job.Errorf(job.NotFound, "no such image") })
	if _, err := c.PullImage(context.Background(), "x", nil); !errors.Is(err, job.NotFound) {
		t.Errorf("a pull that fails: %v", err)
	}
}

func TestBadQueriesAreRefused(t *testing.T) {
	c := newMachine(t, "A", &script{leader: "self", owner: "self", state: true}).client(Reader)
	for _, q := range []string{"/v1/tasks?after=x", "/v1/tasks?after=-1", "/v1/tasks?wait=x", "/v1/tasks?wait=-5s", "/v1/events?after=x", "/v1/tasks/t/logs?tail=x", "/v1/tasks/t/logs?since=x"} {
		r, _ := http.NewRequest("GET", "http://shoal"+q, nil)
		if code, body := status(t, c, r); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", q, code, body)
		}
	}
	if d, err := duration("9999h"); err != nil || d != maxWait {
		t.Errorf("a wait is bounded: %v, %v", d, err)
	}
}

func TestAMissingAgentIsExplained(t *testing.T) {
	for _, c := range []*Client{DialUnix(t.TempDir() + "/none"), DialTLS("127.0.0.1:1", nil)} {
		_, err := c.Status(context.Background())
		if !errors.Is(err, job.Unavailable) || !strings.Contains(err.Error(), "agent") && !strings.Contains(err.Error(), "127.0.0.1:1") {
			t.Errorf("%v", err)
		}
	}
}
