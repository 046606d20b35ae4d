package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

var everyone = []Access{Anyone, Reader, Operator, Admin, NodeOnly}

// wanted is a request that a route takes.
func wanted(t *testing.T, route Route) *http.Request {
	t.Helper()
	path := strings.NewReplacer("{job}", "shop", "{task}", "t1", "{node}", "n1", "{token}", "k1").Replace(route.Path)
	body := `{}`
	switch {
	case route.Method == "PUT" && strings.HasPrefix(route.Path, "/v1/jobs/"), strings.HasSuffix(route.Path, "/rehearse"):
		body = `{"spec":{"name":"shop"}}`
	case route.Method == "GET":
		body = ""
	}
	r, err := http.NewRequest(route.Method, "http://shoal"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(route.Path, "/feed") {
		r.URL.RawQuery = "node=other"
	}
	r.Header.Set(headerKey, "key")
	return r
}

func status(t *testing.T, c *Client, r *http.Request) (int, string) {
	t.Helper()
	resp, err := c.http.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestEachRouteIsForItsCallersAlone(t *testing.T) {
	b := &script{leader: "self", owner: "self", state: true}
	m := newMachine(t, "A", b)
	for _, caller := range everyone {
		c := m.client(caller)
		for _, route := range Routes {
			code, body := status(t, c, wanted(t, route))
			asked := b.taken()
			allowed := caller >= route.Access
			if isSession(route.Path) && allowed { // refused for want of an upgrade, but not for its rights
				allowed, asked = code == http.StatusBadRequest, "exec"
			}
			if !allowed && (code != http.StatusForbidden || asked != "") {
				t.Errorf("%s %s by access %d: status %d, asked %q; want it denied", route.Method, route.Path, caller, code, asked)
			}
			if allowed && (code == http.StatusForbidden || asked == "" && !strings.Contains(route.Path, "probe")) {
				t.Errorf("%s %s by access %d: status %d (%s), asked %q; want it done", route.Method, route.Path, caller, code, body, asked)
			}
		}
		code, _ := status(t, c, &http.Request{Method: "GET", URL: mustURL("http://shoal/v2/x/blobs/y"), Header: http.Header{}})
		if allowed := caller >= Reader; allowed != (code == http.StatusOK) {
			t.Errorf("images by access %d: status %d", caller, code)
		}
		b.taken()
	}
}

func TestAForwardedRequestHasItsCallersRights(t *testing.T) {
	leader := &script{leader: "self", owner: "self", state: true}
	l := newMachine(t, "L", leader)
	via := &script{leader: l.peers, owner: l.peers}
	v := newMachine(t, "V", via)
	for _, caller := range everyone {
		c := v.client(caller)
		for _, route := range Routes {
			if route.Where == Here || route.Where == AtNode || isSession(route.Path) {
				continue
			}
			code, body := status(t, c, wanted(t, route))
			asked := leader.taken()
			switch {
			case caller < route.Access:
				if code != http.StatusForbidden || asked != "" {
					t.Errorf("%s %s by access %d: status %d, the leader was asked %q", route.Method, route.Path, caller, code, asked)
				}
			case route.Access == NodeOnly: // a node speaks for itself, to the leader
				if code != http.StatusServiceUnavailable || asked != "" {
					t.Errorf("%s %s was passed on: status %d, the leader was asked %q", route.Method, route.Path, code, asked)
				}
			case code != http.StatusOK || asked == "":
				t.Errorf("%s %s by access %d: status %d (%s), the leader was asked %q", route.Method, route.Path, caller, code, body, asked)
			}
			if here := via.taken(); here != "" {
				t.Errorf("%s %s was also done where it was asked: %s", route.Method, route.Path, here)
			}
		}
	}
}

func TestWhatANodePassesOnIsJudgedByTheCallersRights(t *testing.T) {
	b := &script{leader: "self", owner: "self", state: true}
	m := newMachine(t, "A", b)
	c := m.client(NodeOnly)
	for _, claimed := range everyone {
		for _, route := range Routes {
			r := wanted(t, route)
			r.Header.Set(headerAccess, strconv.Itoa(int(claimed)))
			code, _ := status(t, c, r)
			if denied := code == http.StatusForbidden; denied != (claimed < route.Access) {
				t.Errorf("%s %s for access %d: status %d", route.Method, route.Path, claimed, code)
			}
			b.taken()
		}
	}
	for _, claimed := range []string{"99", "-1", "x", ""} { // more than a node has, or nonsense: never more than a node's
		r := wanted(t, Route{Method: "GET", Path: "/v1/status"})
		r.Header.Set(headerAccess, claimed)
		if code, _ := status(t, c, r); claimed == "-1" && code != http.StatusForbidden {
			t.Errorf("access %q: status %d", claimed, code)
		}
	}
}

func TestPeopleGainNothingByNodesHeaders(t *testing.T) {
	leader := &script{leader: "self", state: true}
	l := newMachine(t, "L", leader)
	via := &script{leader: l.peers, state: true}
	v := newMachine(t, "V", via)
	for name, forge := range map[string]func(http.Header){
		"plain":      func(h http.Header) {},
		"access":     func(h http.Header) { h.Set(headerAccess, "4") },
		"twice":      func(h http.Header) { h[headerAccess] = []string{"4", "4"} },
		"odd case":   func(h http.Header) { h["sHOAL-aCCESS"] = []string{"4"} },
		"underscore": func(h http.Header) { h["Shoal_Access"] = []string{"4"} },
		"hop by hop": func(h http.Header) { h.Set("Connection", "Shoal-Access, Shoal-Forwarded, Idempotency-Key") },
		"trailer":    func(h http.Header) { h.Set("Trailer", headerAccess) },
		"forwarded":  func(h http.Header) { h.Set(headerForwarded, "1") },
		"stale":      func(h http.Header) { h.Set("Shoal-Stale", "1") },
		"caller":     func(h http.Header) { h.Set("X-Forwarded-For", "127.0.0.1"); h.Set("Shoal-Node", "L") },
	} {
		for _, at := range []*machine{v, l} {
			admin := wanted(t, Route{Method: "POST", Path: "/v1/nodes/{node}/drain"})
			forge(admin.Header)
			if code, _ := status(t, at.client(Operator), admin); code != http.StatusForbidden {
				t.Errorf("%s, at %s: an operator drains a node: status %d", name, at.id, code)
			}
			report := wanted(t, Route{Method: "POST", Path: "/v1/report"})
			forge(report.Header)
			if code, _ := status(t, at.client(Admin), report); code != http.StatusForbidden {
				t.Errorf("%s, at %s: a person reports: status %d", name, at.id, code)
			}
			read := wanted(t, Route{Method: "GET", Path: "/v1/jobs"})
			forge(read.Header)
			code, body := status(t, at.client(Reader), read)
			var got JobList
			if err := json.Unmarshal([]byte(body), &got); code != http.StatusOK || err != nil || got.Stale {
				t.Errorf("%s, at %s: a read is answered %d %s", name, at.id, code, body)
			}
		}
		if asked := leader.taken(); asked != "jobs jobs" {
			t.Errorf("%s: the leader was asked %q, want two reads", name, asked)
		}
	}
}

func TestPathsLeadWhereTheyAreCheckedFor(t *testing.T) {
	leader := &script{leader: "self", owner: "self", state: true}
	l := newMachine(t, "L", leader)
	v := newMachine(t, "V", &script{leader: l.peers, owner: l.peers})
	reader, operator := v.client(Reader), v.client(Operator)
	for path, want := range map[string]string{
		"/v1/tasks/shop%2Fweb.1":                      "task shop/web.1",
		"/v1/tasks/..%2F..%2Fv1%2Ftokens":             "task ../../v1/tokens",
		"/v1/tasks/%2e%2e%2f":                         "task ../",
		"/v1/tasks/x%2Flogs":                          "task x/logs",
		"/v1/tasks/a%00b":                             "task a\x00b",
		"/v1/jobs/a%3Fb%23c":                          "job a?b#c",
		"/v1/jobs/x;node=1":                           "job x;node=1",
		"/v1/jobs/" + strings.Repeat("a", 3000) + "?": "job " + strings.Repeat("a", 3000),
	} {
		r, err := http.NewRequest("GET", "http://shoal"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		code, body := status(t, reader, r)
		if got := leader.taken(); got != want || code != http.StatusOK {
			t.Errorf("GET %s: status %d %s, the leader was asked %q; want %q", path, code, body, got, want)
		}
	}
	for _, path := range []string{"/v1/jobs/x/../../nodes/n1", "/v1//nodes/n1", "//v1/nodes/n1", "/v1/nodes/%2e%2e/n1", "/v1/jobs/..%2f..%2fv1%2fnodes%2fn1/../n"} {
		r, _ := http.NewRequest("DELETE", "http://shoal", nil)
		r.URL.Opaque = path
		_, _ = status(t, operator, r)
		if got := leader.taken(); strings.HasPrefix(got, "rm node") {
			t.Errorf("DELETE %s by an operator: %q", path, got)
		}
	}
}

func TestUnknownFieldsAreRefusedFromPeopleAlone(t *testing.T) {
	leader := &script{leader: "self", state: true}
	l := newMachine(t, "L", leader)
	v := newMachine(t, "V", &script{leader: l.peers})
	typo, bad := `{"ttl":5,"maxUsess":1}`, `{"ttl":5} {"maxUses":1}`
	for _, c := range []struct {
		who    string
		client *Client
		path   string
		body   string
		want   int
	}{
		{"a person", l.client(Admin), "/v1/tokens", typo, 400},
		{"a person through another node", v.client(Admin), "/v1/tokens", typo, 400},
		{"a person, two values", l.client(Admin), "/v1/tokens", bad, 400},
		{"a node", l.client(NodeOnly), "/v1/tokens", typo, 200},
		{"a joiner", l.client(Anyone), "/v1/join", `{"newer":1}`, 200},
		{"a joiner through another node", v.client(Anyone), "/v1/join", `{"newer":1}`, 200},
	} {
		r, _ := http.NewRequest("POST", "http://shoal"+c.path, strings.NewReader(c.body))
		if code, body := status(t, c.client, r); code != c.want {
			t.Errorf("%s: status %d %s, want %d", c.who, code, body, c.want)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	b := &script{leader: "self", owner: "self", state: true}
	m := newMachine(t, "A", b)
	limits := map[string]int64{"PUT /v1/jobs/{job}": maxJobBytes, "POST /v1/jobs/{job}/rehearse": maxJobBytes, "POST /v1/report": maxReportBytes, "POST /v1/imagenames": maxJobBytes, "POST /v1/lease": maxJobBytes, "POST /v1/sample": maxReportBytes}
	c := m.client(NodeOnly)
	for _, route := range Routes {
		if route.Method == "GET" || strings.HasSuffix(route.Path, "/images/load") || isSession(route.Path) {
			continue
		}
		limit := limits[route.Method+" "+route.Path]
		if limit == 0 {
			limit = maxSmallBytes
		}
		r := wanted(t, route)
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"x":"`), &endless{n: limit + 1<<20}))
		r.ContentLength = -1
		code, body := status(t, c, r)
		asked := b.taken()
		// Routes that take no body do not look at it; the others say how much they take.
		if code == http.StatusBadRequest && !strings.Contains(body, "larger than "+strconv.FormatInt(limit, 10)) || code != http.StatusBadRequest && asked == "" {
			t.Errorf("%s %s with a body above %d bytes: status %d %s, asked %q", route.Method, route.Path, limit, code, body, asked)
		}
	}
}

// endless gives n letters.
type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.n <= 0 {
		return 0, io.EOF
	}
	k := int(min(int64(len(p)), e.n))
	copy(p, bytes.Repeat([]byte("a"), k))
	e.n -= int64(k)
	return k, nil
}

func TestChangesNeedAKey(t *testing.T) {
	b := &script{leader: "self", state: true}
	c := newMachine(t, "A", b).client(Operator)
	for _, route := range []Route{{Method: "PUT", Path: "/v1/jobs/{job}"}, {Method: "POST", Path: "/v1/jobs/{job}/scale"}} {
		for key, want := range map[string]int{"": 400, strings.Repeat("k", 129): 400, strings.Repeat("k", 128): 200} {
			r := wanted(t, route)
			r.Header.Set(headerKey, key)
			if code, body := status(t, c, r); code != want {
				t.Errorf("%s with a key of %d bytes: status %d %s, want %d", route.Path, len(key), code, body, want)
			}
		}
	}
	r := wanted(t, Route{Method: "PUT", Path: "/v1/jobs/{job}"})
	r.URL.Path = "/v1/jobs/other"
	if code, _ := status(t, c, r); code != http.StatusBadRequest {
		t.Errorf("a path and a spec of different names: status %d", code)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	leader := &script{leader: "self", owner: "self", state: true}
	l := newMachine(t, "L", leader)
	v := newMachine(t, "V", &script{leader: l.peers, owner: l.peers})
	for name, c := range map[string]*Client{"directly": l.client(Admin), "through another node": v.client(Admin)} {
		for kind := range httpStatus {
			leader.set(func() { leader.fail = job.Errorf(kind, "no %s today: %s", kind, "try tomorrow") })
			ctx := context.Background()
			_, err1 := c.Job(ctx, "x", false)
			_, err2 := c.Submit(ctx, NewKey(), SubmitRequest{Spec: job.Spec{Name: "x"}})
			_, err3 := c.Stats(ctx, "t")
			err4 := c.Logs(ctx, "t", LogQuery{}, func(LogRecord) error { return nil })
			for i, err := range []error{err1, err2, err3, err4} {
				if !errors.Is(err, kind) || err.Error() != fmt.Sprintf("no %s today: try tomorrow", kind) {
					t.Errorf("%s, call %d: %v (%v), want kind %v", name, i+1, err, job.KindOf(err), kind)
				}
			}
		}
		for _, odd := range []error{io.ErrUnexpectedEOF, &job.Error{Kind: "teapot", Message: "of a newer node"}, &job.Error{Message: "without a kind"}} {
			leader.set(func() { leader.fail = odd })
			if _, err := c.Job(context.Background(), "x", false); !errors.Is(err, job.Internal) || err.Error() != odd.Error() {
				t.Errorf("%s: %v became %v (%v)", name, odd, err, job.KindOf(err))
			}
		}
	}
}

func TestUnknownRoutesAndMethodsAreSaid(t *testing.T) {
	c := newMachine(t, "A", &script{leader: "self", state: true}).client(Admin)
	for path, want := range map[string]int{"/v3/x": 404, "/": 404, "/v1/jobs/a/b/c": 404} {
		r, _ := http.NewRequest("GET", "http://shoal"+path, nil)
		code, body := status(t, c, r)
		var e Error
		if json.Unmarshal([]byte(body), &e) != nil || code != want || e.Kind != job.NotFound {
			t.Errorf("GET %s: %d %s", path, code, body)
		}
	}
}

// A caller who may not is not waited for: it may never send the body that it announced.
func TestADeniedCallerIsNotWaitedFor(t *testing.T) {
	m := newMachine(t, "A", &script{leader: "self"})
	sock := m.serve(func(net.Conn) Caller { return Caller{Access: Reader} }, "unix")
	conn, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "PUT /v1/jobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	if _, err := in.ReadByte(); resp.StatusCode != http.StatusForbidden || err != io.EOF {
		t.Errorf("status %d, then %v; want 403 and the end", resp.StatusCode, err)
	}
}

// isSession tells the routes that want an upgraded connection.
func isSession(path string) bool {
	for _, name := range []string{"exec", "attach", "forward", "copyout", "copyin"} {
		if strings.HasSuffix(path, "/"+name) {
			return true
		}
	}
	return false
}
