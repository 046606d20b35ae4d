package reconciler

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/frugal"
)

// askAt makes one check against a server of the test.
func askAt(t *testing.T, addr net.Addr, p job.Probe, limit time.Duration) string {
	t.Helper()
	at := netip.MustParseAddrPort(addr.String())
	p.Port = at.Port()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	ok, output, judged := askFromOutside(ctx, at.Addr(), job.Health{Probe: &p, Timeout: limit})
	if !judged {
		t.Error("a check that was made is not judged")
	}
	if ok != (output == "") {
		t.Errorf("healthy: %v, but it says %q", ok, output)
	}
	return output
}

func wantOutput(t *testing.T, got, want string) {
	t.Helper()
	if (got == "") != (want == "") || !strings.Contains(got, want) {
		t.Errorf("says %q, want %q", got, want)
	}
}

const patience = 30 * time.Second // of a test: no promise is about being faster

func TestHTTPProbe(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/nowhere", http.StatusFound)
		case "/sick":
			http.Error(w, "the database\nis gone", http.StatusServiceUnavailable)
		case "/flood":
			for range 1 << 10 {
				io.WriteString(w, strings.Repeat("x", 1<<10))
			}
			io.WriteString(w, "END")
		case "/headers":
			w.Header().Set("X-Long", strings.Repeat("y", 100<<10))
		case "/hang":
			<-r.Context().Done()
		case "/echo":
			fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.Header.Get("X-A"), r.URL.RawQuery)
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	for _, c := range []struct {
		name string
		p    job.Probe
		tls  bool
		want string
	}{
		{"root", job.Probe{}, false, ""},
		{"redirection is an answer", job.Probe{Path: "/moved"}, false, ""},
		{"statuses", job.Probe{Path: "/moved", Status: []job.Range{{From: 200, To: 299}}}, false, "http: GET /moved: 302 Found"},
		{"sick", job.Probe{Path: "/sick"}, false, "http: GET /sick: 503 Service Unavailable: the database is gone"},
		{"sick is wanted", job.Probe{Path: "/sick", Status: []job.Range{{From: 200, To: 200}, {From: 500, To: 599}}}, false, ""},
		{"host, headers and body", job.Probe{Path: "/echo?q=1", Host: "shop.example", Headers: []string{"X-A: b"}, Body: "GET shop.example b q=1"}, false, ""},
		{"other body", job.Probe{Path: "/echo", Body: "something"}, false, `but "something" is not in its first`},
		{"head", job.Probe{Path: "/echo", Method: "HEAD"}, false, ""},
		{"tls", job.Probe{TLS: true, Path: "/echo", Host: "a.example", Body: "a.example"}, true, ""},
		{"plain to tls", job.Probe{}, true, "400 Bad Request"},
		{"the end of a flood is not read", job.Probe{Path: "/flood", Body: "END"}, false, "is not in its first 65536 bytes"},
		{"too many headers", job.Probe{Path: "/headers"}, false, "exceed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.Kind = job.ProbeHTTP
			server := plain
			if c.tls {
				server = secure
			}
			wantOutput(t, askAt(t, server.Listener.Addr(), c.p, patience), c.want)
		})
	}
	wantOutput(t, askAt(t, plain.Listener.Addr(), job.Probe{Kind: job.ProbeHTTP, Path: "/hang"}, 50*time.Millisecond), "http: timed out after 50ms")
}

func TestTCPProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wantOutput(t, askAt(t, l.Addr(), job.Probe{Kind: job.ProbeTCP}, patience), "")
	l.Close()
	wantOutput(t, askAt(t, l.Addr(), job.Probe{Kind: job.ProbeTCP}, patience), "tcp: dial tcp "+l.Addr().String())
	ok, output, judged := askFromOutside(t.Context(), netip.Addr{}, job.Health{Probe: &job.Probe{Kind: job.ProbeTCP, Port: 1}})
	if ok || !judged || !strings.Contains(output, "no address") {
		t.Errorf("of a container without an address: %v %q %v", ok, output, judged)
	}
}

// grpcServer answers as a server with the health service does; the protocol is written down in gRPC's PROTOCOL-HTTP2.md.
func grpcServer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	body, _ := io.ReadAll(r.Body)
	trailersOnly := func(code, text string) {
		w.Header().Set("Grpc-Status", code)
		w.Header().Set("Grpc-Message", text)
	}
	if r.ProtoMajor != 2 || r.Header.Get("Content-Type") != "application/grpc" || r.Header.Get("Te") != "trailers" || len(body) < 5 ||
		int(binary.BigEndian.Uint32(body[1:5])) != len(body)-5 {
		trailersOnly("13", "not a gRPC call")
		return
	}
	if r.URL.Path != "/grpc.health.v1.Health/Check" {
		trailersOnly("12", "unknown method")
		return
	}
	answer := map[string]string{
		"": "\x08\x01", "a.Up": "\x12\x01x\x08\x01", "a.Down": "\x08\x02", "a.New": "", "a.Odd": "\xff", "a.Torn": "\x12\x09x",
	}
	name := ""
	if len(body) > 7 {
		name = string(body[7:])
	}
	message, known := answer[name]
	if !known {
		trailersOnly("5", "unknown service")
		return
	}
	w.Header().Set("Trailer", "Grpc-Status")
	w.Write(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))))
	io.WriteString(w, message)
	w.Header().Set("Grpc-Status", "0")
}

func TestGRPCProbe(t *testing.T) {
	plain := httptest.NewUnstartedServer(http.HandlerFunc(grpcServer))
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.HandlerFunc(grpcServer))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer secure.Close()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for _, c := range []struct {
		service, want string
	}{
		{"", ""}, {"a.Up", ""}, {"a.Down", "it is NOT_SERVING"}, {"a.New", "it is UNKNOWN"}, {"a.None", "NOT_FOUND (it knows no such service)"},
		{"a.Odd", "is not a message"}, {"a.Torn", "is not a message"},
	} {
		p := job.Probe{Kind: job.ProbeGRPC, Service: c.service}
		wantOutput(t, askAt(t, plain.Listener.Addr(), p, patience), c.want)
		p.TLS = true
		wantOutput(t, askAt(t, secure.Listener.Addr(), p, patience), c.want)
	}
	if got := askAt(t, other.Listener.Addr(), job.Probe{Kind: job.ProbeGRPC}, patience); got == "" {
		t.Error("a server of HTTP/1 serves no gRPC")
	}
}

// Nothing that a container answers may harm the node.
func FuzzServingStatus(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02\x08\x01"))
	f.Add([]byte("\x00\xff\xff\xff\xff\x08\x01"))
	f.Fuzz(func(t *testing.T, body []byte) {
		defer frugal.Watch(t)()
		_, _ = servingStatus(body)
	})
}

func TestTimesOfTheImagesCheckCanBeChanged(t *testing.T) {
	image := job.Health{Test: []string{"CMD", "true"}, Interval: time.Minute, Retries: 5}
	got := withTimesOf(&image, &job.Health{Interval: time.Second, StartPeriod: 2 * time.Second})
	if got.Interval != time.Second || got.StartPeriod != 2*time.Second || got.Retries != 5 || len(got.Test) != 2 {
		t.Errorf("%+v", got)
	}
	tk := newTask("t1", "n")
	tk.Service.Health = &job.Health{Interval: time.Second}
	if tk.check() != nil {
		t.Error("an image without a check got one")
	}
	tk.info.Labels = map[string]string{labelHealth: `{"test":["CMD","true"],"retries":5}`}
	if h := tk.check(); h == nil || h.Interval != time.Second || h.Retries != 5 {
		t.Errorf("%+v", h)
	}
}

func TestAProbeFromOutsideLooksEarly(t *testing.T) {
	start := time.Now()
	for _, h := range []job.Health{{Probe: &job.Probe{Kind: job.ProbeTCP, Port: 1}, Retries: 1}, {Test: []string{"CMD", "true"}, Retries: 1}} {
		c := newChecker(h, start, "")
		if want := map[bool]time.Duration{true: earlyProbe, false: defaultInterval}[h.Probe != nil]; c.wait(start) != want {
			t.Errorf("waits %v, want %v", c.wait(start), want)
		}
		c.take(start.Add(time.Second), false)
		if want := map[bool]job.Healthiness{true: job.HealthStarting, false: job.Unhealthy}[h.Probe != nil]; c.state != want {
			t.Errorf("an early failure makes it %s, want %s", c.state, want)
		}
		c.take(start.Add(defaultInterval), false)
		if c.state != job.Unhealthy {
			t.Errorf("a later one leaves it %s", c.state)
		}
	}
}
