package compose

import (
	"fmt"
	"strconv"
	"strings"

	"shoal/consensus/job"
)

// autoscale converts `x-autoscale`; nil when it is not there. What goes together, the spec's validation says.
func (c *conversion) autoscale(at string, ext map[string]any) *job.Autoscale {
	if ext["x-autoscale"] == nil {
		return nil
	}
	e := (&extension{c, at, ext}).mapping("x-autoscale")
	a := &job.Autoscale{CPU: e.percent("cpu"), Memory: e.percent("memory"), Tolerance: e.percent("tolerance"), Window: e.duration("window")}
	a.Min, _ = e.number("min")
	if e.m["min"] == nil {
		a.Min = 1
	}
	a.Max, _ = e.number("max")
	a.Up, a.Down = e.mapping("up").scaleLimit(), e.mapping("down").scaleLimit()
	list, ok := e.m["metrics"].([]any)
	if e.m["metrics"] != nil && !ok {
		e.problem("metrics", "%.40v is not a list", e.m["metrics"])
	}
	for i, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			e.problem("metrics", "%.40v is not a mapping with name, port and target", v)
			continue
		}
		a.Metrics = append(a.Metrics, (&extension{c, fmt.Sprintf("%s.metrics[%d]", e.at, i), m}).metric())
	}
	return a
}

func (e *extension) scaleLimit() job.ScaleLimit {
	step, _ := e.number("step")
	return job.ScaleLimit{Cooldown: e.duration("cooldown"), Step: step}
}

func (e *extension) metric() job.Metric {
	port, _ := e.number("port")
	m := job.Metric{Port: uint16(min(max(port, 0), 65535)), Path: e.text("path"), Name: e.text("name"), Target: e.decimal("target"), Kind: job.MetricKind(e.text("type"))}
	if m.Kind == "average" {
		m.Kind = job.MetricAverage
	}
	if port < 0 || port > 65535 {
		e.problem("port", "%d is no port", port)
	}
	for k, v := range e.mapping("labels").m {
		if m.Labels == nil {
			m.Labels = map[string]string{}
		}
		m.Labels[k] = fmt.Sprint(v)
	}
	return m
}

// percent reads 60 and "60%".
func (e *extension) percent(key string) int {
	if text, ok := e.m[key].(string); ok {
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(text, "%")))
		if err != nil || n < 1 {
			e.problem(key, "%.40q is not a share such as 60%%", text)
			return 0
		}
		return n
	}
	n, there := e.number(key)
	if there && n < 1 {
		e.problem(key, "%d is not above 0", n)
	}
	return n
}
