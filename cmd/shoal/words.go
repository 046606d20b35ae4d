package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// age writes a span as one number and one unit, as people say it: 45s, 3m, 2h, 5d.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func ageOf(at, now time.Time) string {
	if at.IsZero() {
		return ""
	}
	return age(now.Sub(at))
}

// millis writes a span with a resolution of milliseconds: "+12 ms", "+3.204 s" without the sign.
func millis(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.3f s", d.Seconds())
}

// describe tells a task's state in words, such as "running (healthy) 3m", and how good it is.
func describe(t *api.Task, now time.Time) cell {
	state, c := t.State(), cell{}
	c.text, c.style = string(state), plainStyle
	switch {
	case state == job.Running && t.Status.Paused:
		c.text, c.style = "paused", yellow
	case state == job.Running && t.Status.Health != job.HealthNone:
		c.text += " (" + string(t.Status.Health) + ")"
	case state == job.Failed && t.Status != nil && t.Status.OOM:
		c.text += " (out of memory)"
	case state == job.Failed && t.Status != nil && t.Status.ExitCode != nil:
		c.text += " (exit code " + strconv.Itoa(*t.Status.ExitCode) + ")"
	}
	since := t.Placed
	if t.Status != nil && !t.Status.At[state].IsZero() {
		since = t.Status.At[state]
	}
	if a := ageOf(since, now); a != "" {
		c.text += " " + a
	}
	switch {
	case t.NodeState != "" && t.NodeState != job.NodeReady && !state.Terminal():
		c.text += ", node " + string(t.NodeState)
		c.style = yellow
	case t.Desired != job.DesiredRun && !state.Terminal() && state != job.Stopping:
		c.text += ", to stop"
		c.style = dim
	case t.Ready:
		c.style = green
	case state == job.Failed || state == job.Lost:
		c.style = red
	case state == job.Running || state.Before(job.Running):
		c.style = yellow
	default:
		c.style = dim
	}
	return c
}

// remark is what a task says of itself, or why it is meant to stop.
func remark(t *api.Task) string {
	if t.Status != nil && t.Status.Message != "" {
		return t.Status.Message
	}
	if t.Desired != job.DesiredRun {
		return t.StopCause
	}
	return ""
}

// fullName is what logs, exec and why take: "web/front.2".
func fullName(t *api.Task) string { return t.Job + "/" + t.Name }

// ports writes ports as bound: "8080->80/tcp, 127.0.0.1:53->53/udp".
func portList(ports []job.Port) string {
	out := make([]string, len(ports))
	for i, p := range ports {
		host := ""
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			host = p.HostIP.String() + ":"
			if p.HostIP.Is6() {
				host = "[" + p.HostIP.String() + "]:"
			}
		}
		published := ""
		if p.Published != 0 || host != "" {
			published = fmt.Sprintf("%s%d->", host, p.Published)
		}
		out[i] = fmt.Sprintf("%s%d/%s", published, p.Target, p.Protocol)
	}
	return strings.Join(out, ", ")
}

// plural writes "1 task", "3 tasks".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

func addrText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// shortID shortens ids of nodes and images, which are long, to what people compare.
func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

// tagOf is an image's name without the digest that the cluster pinned it to.
func tagOf(image string) string {
	name, _, _ := strings.Cut(image, "@sha256:")
	return name
}

func clock(at time.Time) string { return at.Local().Format("15:04:05.000") }

func stamp(at time.Time) string { return at.Local().Format("2006-01-02T15:04:05.000Z07:00") }
