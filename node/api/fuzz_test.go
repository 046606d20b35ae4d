package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"shoal/e2e/frugal"
)

// FuzzRoutes: no path, query or body makes a route panic or answer that the failure is ours.
func FuzzRoutes(f *testing.F) {
	for i := range Routes {
		f.Add(i, "x", "after=1&wait=1s&tail=3&all=1&follow=&node=&since=2026-01-02T15:04:05Z", []byte(`{"spec":{"name":"x"},"replicas":{"a":1}}`), false)
		f.Add(i, "%2e", "after=-1&wait=z&tail=x&ref=%00&index=1", []byte(`{`), true)
	}
	f.Fuzz(func(t *testing.T, route int, name, query string, body []byte, node bool) {
		defer frugal.Watch(t)()
		to := Routes[uint(route)%uint(len(Routes))]
		b := &script{leader: "self", owner: "self", holder: "self", state: true}
		s := NewServer(b, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
		r, err := http.NewRequest(to.Method, "http://shoal/", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = query
		c := Caller{Access: Admin}
		if node {
			c = Caller{Access: NodeOnly, Node: "n"}
		}
		for _, word := range []string{"job", "service", "task", "node", "token"} {
			r.SetPathValue(word, name)
		}
		w := httptest.NewRecorder()
		s.serve(to, w, r.WithContext(WithCaller(context.Background(), c)))
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s: %d %s", to.Method, to.Path, w.Code, w.Body)
		}
	})
}

// body is a server whose every answer is the same.
type body []byte

func (b body) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(b)), Request: r}, nil
}

// FuzzAnswers: what a client reads of a server, frames of the feed among it, is read to its end or refused.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"index":1}` + "\n" + `{"index":2,"full":{}}`))
	f.Add([]byte(`{"tasks":[{"id":"x","status":null}],"want":1}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Watch(t)()
		c := NewClient("http://node", body(b))
		ctx := context.Background()
		stop := errors.New("enough")
		frames := 0
		err := c.Feed(ctx, "n", func(FeedFrame) error {
			if frames++; frames > len(b) {
				return stop
			}
			return nil
		})
		if errors.Is(err, stop) {
			t.Errorf("%d bytes hold %d frames", len(b), frames)
		}
		_, _ = c.Tasks(ctx, TaskQuery{})
		_, _ = c.Job(ctx, "x", true)
		_ = c.Logs(ctx, "x", LogQuery{}, func(LogRecord) error { return nil })
	})
}

// ceaseless is a server that never comes to an end.
type ceaseless struct{ sent int64 }

func (e *ceaseless) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: io.NopCloser(e), Request: r}, nil
}

func (e *ceaseless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.sent += int64(len(p))
	return len(p), nil
}

func TestEndlessAnswersAreCutOff(t *testing.T) {
	e := &ceaseless{}
	c := NewClient("http://node", e)
	c.most = 1 << 20
	if _, err := c.Tasks(context.Background(), TaskQuery{}); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("a list: %v", err)
	}
	if err := c.Feed(context.Background(), "n", func(FeedFrame) error { return nil }); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("a stream: %v", err)
	}
	if e.sent > 3<<20 {
		t.Errorf("read %d bytes", e.sent)
	}
}
