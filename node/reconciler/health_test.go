package reconciler

import (
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
	"shoal/runtime/fake"
)

func TestCheckerJudgesAsDockerDoes(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		h      job.Health
		probes string // . success, x failure
		states string // s starting, h healthy, u unhealthy, R asks for a restart
		waits  []time.Duration
	}{
		{"defaults", job.Health{}, "xx.xxx.", "sshhhuh", []time.Duration{30 * time.Second, 30 * time.Second}},
		{"stays unhealthy", job.Health{Retries: 2, Interval: time.Second}, "xxxx", "suuR", []time.Duration{time.Second}},
		{"start period", job.Health{Retries: 1, Interval: 10 * time.Second, StartPeriod: 10 * time.Second, StartInterval: 3 * time.Second},
			"xxxxx", "sssuR", []time.Duration{3 * time.Second, 3 * time.Second, 3 * time.Second, 3 * time.Second, 10 * time.Second}},
		{"success ends the start period", job.Health{Retries: 1, Interval: 10 * time.Second, StartPeriod: time.Hour, StartInterval: time.Second},
			".x", "hu", []time.Duration{time.Second, 10 * time.Second}},
	} {
		k := newChecker(c.h, begin, job.HealthNone)
		now, states := begin, ""
		for i, p := range c.probes {
			d := k.wait(now)
			if i < len(c.waits) && d != c.waits[i] {
				t.Errorf("%s: waits %v before probe %d, want %v", c.name, d, i, c.waits[i])
			}
			now = now.Add(d)
			switch restart := k.take(now, p == '.'); {
			case restart:
				states += "R"
			case k.state == job.Healthy:
				states += "h"
			case k.state == job.Unhealthy:
				states += "u"
			default:
				states += "s"
			}
		}
		if states != c.states {
			t.Errorf("%s: %q is judged %q, want %q", c.name, c.probes, states, c.states)
		}
	}
}

func TestHealthIsReportedAndTheUnhealthyRestarted(t *testing.T) {
	inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {}}}, func(g *rig) {
		g.set(web("t1", policy(job.Restart{Max: 1}), health(job.Health{
			Test: []string{"CMD-SHELL", "check"}, Interval: 10 * time.Second, Retries: 2,
		})))
		g.pass(time.Second)
		if s := g.status("t1"); s.Health != job.HealthStarting || s.Ready() {
			g.Errorf("at first: %s", describe(s))
		}
		g.pass(10 * time.Second)
		if s := g.status("t1"); !s.Ready() || s.Health != job.Healthy || s.At["healthy"].IsZero() {
			g.Errorf("then: %s", describe(s))
		}
		g.rt.Health("t1", 1, "cannot reach the database")
		g.pass(21 * time.Second)
		if s := g.status("t1"); s.Health != job.Unhealthy || s.Ready() || !strings.Contains(s.Message, "cannot reach the database") {
			g.Errorf("unwell: %s", describe(s))
		}
		g.wantContainer("t1", runtime.Running, 1)
		g.pass(20 * time.Second)
		g.wantContainer("t1", runtime.Running, 2)
		if s := g.status("t1"); s.Restarts != 1 || s.Health != job.HealthStarting {
			g.Errorf("restarted: %s", describe(s))
		}
		g.pass(time.Minute) // it never becomes healthy again: the one restart is used up, though it ran for long
		if s := g.status("t1"); s.State != job.Failed || !strings.Contains(s.Message, "unhealthy") {
			g.Errorf("in the end: %s", describe(s))
		}
		g.wantContainer("t1", runtime.Stopped, 2)
	})
}

func TestHealthCheckThatHangsOrCannotRun(t *testing.T) {
	for name, c := range map[string]struct {
		test []string
		want string
	}{
		"hangs":     {[]string{"CMD", "sleep", "60"}, "timed out after 2s"},
		"not there": {[]string{"CMD", "/no/such/check"}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {}}}, func(g *rig) {
				g.set(web("t1", health(job.Health{Test: c.test, Interval: 5 * time.Second, Timeout: 2 * time.Second, Retries: 2})))
				g.pass(16 * time.Second)
				if s := g.status("t1"); s.Health != job.Unhealthy || !strings.Contains(s.Message, c.want) {
					g.Errorf("%s", describe(s))
				}
			})
		})
	}
}

func TestWhichHealthCheckApplies(t *testing.T) {
	own := job.Health{Test: []string{"CMD", "true"}, Interval: time.Second}
	none := job.Health{Test: []string{"NONE"}}
	for _, c := range []struct {
		name   string
		image  *runtime.HealthConfig
		change []func(*Assignment)
		want   job.Healthiness
	}{
		{"none at all", nil, nil, job.HealthNone},
		{"the image's", &runtime.HealthConfig{Test: []string{"CMD", "false"}, Interval: time.Second, Retries: 5}, nil, job.Unhealthy},
		{"the service's wins", &runtime.HealthConfig{Test: []string{"CMD", "false"}, Interval: time.Second, Retries: 5},
			[]func(*Assignment){health(own)}, job.Healthy},
		{"the service turns it off", &runtime.HealthConfig{Test: []string{"CMD", "false"}, Interval: time.Second, Retries: 5},
			[]func(*Assignment){health(none)}, job.HealthNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {Image: runtime.Image{Health: c.image}}}}, func(g *rig) {
				g.set(web("t1", c.change...))
				g.pass(3 * time.Second)
				g.stop() // the image's check must survive the agent and the image
				g.rt.DeleteImage("web")
				g.start()
				g.pass(5500 * time.Millisecond)
				if s := g.status("t1"); s.State != job.Running || s.Health != c.want || s.Restarts != 0 {
					g.Errorf("%s, want health %q", describe(s), c.want)
				}
			})
		})
	}
}

// Both streams of a check or hook are written to the same one, at the same time.
func TestHeadTakesTwoWriters(t *testing.T) {
	var h head
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			for range maxMessage {
				_, _ = h.Write([]byte("x"))
			}
		})
	}
	both.Wait()
	if n := len(h.text()); n != maxMessage {
		t.Errorf("%d bytes, want %d", n, maxMessage)
	}
}
