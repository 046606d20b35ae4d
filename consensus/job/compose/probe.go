package compose

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
)

// probe reads `x-health`: a check from outside. The matrix has judged its keys.
func (c *conversion) probe(at string, s *types.ServiceConfig) *job.Health {
	v, there := s.Extensions["x-health"]
	if !there || v == nil {
		return nil
	}
	at += ".x-health"
	if h := s.HealthCheck; h != nil && !h.Disable {
		c.problem(at, "`healthcheck` is there too; remove one of both")
	}
	m, ok := v.(map[string]any)
	if !ok {
		c.problem(at, "is not a mapping; write `http:`, `tcp:` or `grpc:` below it")
		return nil
	}
	f := &fields{c: c, at: at, m: m}
	h := &job.Health{
		Interval: f.duration("interval"), Timeout: f.duration("timeout"), StartPeriod: f.duration("start_period"),
		StartInterval: f.duration("start_interval"), Retries: f.integer("retries"),
	}
	for _, kind := range []string{job.ProbeHTTP, job.ProbeTCP, job.ProbeGRPC} {
		v, there := m[kind]
		if !there {
			continue
		}
		if h.Probe != nil {
			c.problem(at, "there are %s and %s; a service has one check", h.Probe.Kind, kind)
		}
		h.Probe = c.probeOf(at+"."+kind, kind, v)
	}
	if h.Probe == nil {
		c.problem(at, "says nothing of what to ask; write `http:`, `tcp:` or `grpc:` below it")
		return nil
	}
	return h
}

// probeOf reads the mapping of one kind, or the port alone.
func (c *conversion) probeOf(at, kind string, v any) *job.Probe {
	m, ok := v.(map[string]any)
	if !ok {
		m = map[string]any{"port": v}
	}
	f := &fields{c: c, at: at, m: m}
	p := &job.Probe{
		Kind: kind, Path: f.text("path"), Host: f.text("host"), Method: strings.ToUpper(f.text("method")), Body: f.text("body"),
		Service: f.text("service"), TLS: f.text("tls") == "true",
	}
	port := f.integer("port")
	if port < 1 || port > 65535 {
		c.problem(at+".port", "is not a port; use 1 to 65535")
	}
	p.Port = uint16(port)
	switch scheme := f.text("scheme"); scheme {
	case "", "http":
	case "https":
		p.TLS = true
	default:
		c.problem(at+".scheme", "%.40q is not known; use http or https", scheme)
	}
	headers, _ := m["headers"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(headers)) {
		p.Headers = append(p.Headers, fmt.Sprintf("%s: %v", k, headers[k]))
	}
	statuses, isList := m["status"].([]any)
	if v := m["status"]; v != nil && !isList {
		statuses = []any{v}
	}
	for _, v := range statuses {
		from, to, isRange := strings.Cut(fmt.Sprint(v), "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.Atoi(strings.TrimSpace(from))
		b, errB := strconv.Atoi(strings.TrimSpace(to))
		if errA != nil || errB != nil {
			c.problem(at+".status", "%.40q is not a status such as 200, or a range such as 200-299", fmt.Sprint(v))
		}
		p.Status = append(p.Status, job.Range{From: a, To: b})
	}
	return p
}

// fields reads values of an extension, which compose-go gives as they are.
type fields struct {
	c  *conversion
	at string
	m  map[string]any
}

func (f *fields) text(key string) string {
	switch v := f.m[key].(type) {
	case nil:
		return ""
	case string, bool, int, int64, uint64, float64:
		return fmt.Sprint(v)
	}
	f.c.problem(f.at+"."+key, "is not one value")
	return ""
}

func (f *fields) integer(key string) int {
	s := f.text(key)
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		f.c.problem(f.at+"."+key, "%.40q is not a number", s)
	}
	return n
}

func (f *fields) duration(key string) time.Duration {
	s := f.text(key)
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		f.c.problem(f.at+"."+key, "%.40q is not a time such as 10s", s)
	}
	return d
}
