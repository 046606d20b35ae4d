package node

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"shoal/consensus/job"
	"shoal/e2e/frugal"
)

const exposition = `# HELP queue_length jobs that wait
# TYPE queue_length gauge
queue_length{queue="mail",site="a \"b\" \\ c"} 4
queue_length{queue="mail",} 3.5 1700000000000
queue_length { queue = "print" } 1e2
queue_length_total 9
  up 1
nothing_else{broken
http_requests_total{code="200"} 17 # {trace_id="x"} 1 2
late +Inf
# EOF
`

func TestReadMetrics(t *testing.T) {
	asked := []job.Metric{
		{Name: "queue_length"}, {Name: "queue_length", Labels: map[string]string{"queue": "mail"}},
		{Name: "queue_length", Labels: map[string]string{"site": `a "b" \ c`}}, {Name: "queue_length", Labels: map[string]string{"queue": "x"}},
		{Name: "up"}, {Name: "http_requests_total", Labels: map[string]string{"code": "200"}}, {Name: "queue"}, {Name: "late"},
	}
	got, err := readMetrics(strings.NewReader(exposition), asked)
	if err != nil {
		t.Fatal(err)
	}
	nan := math.NaN()
	for i, want := range []float64{107.5, 7.5, 4, nan, 1, 17, nan, math.Inf(1)} {
		if got[i] != want && !(math.IsNaN(got[i]) && math.IsNaN(want)) {
			t.Errorf("%+v: %v, want %v", asked[i], got[i], want)
		}
	}
	for text, want := range map[string]string{
		"a{b=\"c\"": "labels without an end", "a{b=\"c\" 1": "a label without a value", "a{b=c} 1": "without a value in quotes", "a{b=\"c} 1": "without an end", "a x": `"x" is no value`, "a ": "has no value",
		"a{b=\"" + strings.Repeat("x", maxExpositionLine) + "\"} 1": "a line is longer",
		strings.Repeat("b 1\n", maxExpositionBytes/4+2):             "more than",
	} {
		if _, err := readMetrics(strings.NewReader(text), []job.Metric{{Name: "a"}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

func FuzzReadMetrics(f *testing.F) {
	f.Add(exposition, "queue_length", "queue", "mail")
	f.Fuzz(func(t *testing.T, text, name, label, value string) {
		defer frugal.Watch(t)()
		got, err := readMetrics(strings.NewReader(text), []job.Metric{{Name: name, Labels: map[string]string{label: value}}})
		if err == nil && len(got) != 1 {
			t.Fatalf("%v", got)
		}
	})
}

func TestScrapeAsksEachAddressOnceAndFollowsNobody(t *testing.T) {
	asked := map[string]int{}
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path]++
		switch r.URL.Path {
		case "/metrics":
			fmt.Fprint(w, exposition)
		case "/away":
			http.Redirect(w, r, "/metrics", http.StatusFound)
		}
	}))
	defer srv.Close()
	at := netip.MustParseAddrPort(srv.Listener.Addr().String())
	m := func(path, name string) job.Metric {
		return job.Metric{Port: at.Port(), Path: path, Name: name, Target: 1}
	}
	got, err := scrape(t.Context(), at.Addr(), []job.Metric{m("", "up"), m("/away", "up"), m("/metrics", "queue_length"), m("", "absent")})
	if got[0] != 1 || !math.IsNaN(got[1]) || got[2] != 107.5 || !math.IsNaN(got[3]) || err == nil {
		t.Errorf("%v, %v", got, err)
	}
	if asked["/metrics"] != 1 || asked["/away"] != 1 {
		t.Errorf("asked %v", asked)
	}
}
