package compose

import (
	"time"

	"shoal/consensus/job"
)

// failover converts `x-failover` in its short and its long form, and `x-lease`; nil when neither is there. Which modes
// there are, and what goes together, the spec's validation says.
func (c *conversion) failover(at string, ext map[string]any) *job.Failover {
	mode, lease := ext["x-failover"], ext["x-lease"]
	if mode == nil && lease == nil {
		return nil
	}
	out := &job.Failover{}
	if long, ok := mode.(map[string]any); ok {
		mode = long["mode"]
		if long["lease"] != nil && lease != nil {
			c.problem(at+".x-lease", "the lease is in x-failover too; remove one")
		} else if long["lease"] != nil {
			out.Lease = c.lease(at+".x-failover.lease", long["lease"])
		}
	}
	if lease != nil {
		out.Lease = c.lease(at+".x-lease", lease)
	}
	switch m := mode.(type) {
	case nil:
	case string:
		out.Mode = job.FailoverMode(m)
	default:
		c.problem(at+".x-failover", "%.40v is neither a mode nor a mapping with mode and lease; use fast, fenced or manual", mode)
	}
	return out
}

func (c *conversion) lease(at string, v any) time.Duration {
	text, _ := v.(string)
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		c.problem(at, "%.40v is not a duration such as 10s", v)
		return 0
	}
	return d
}

// rebalance converts `x-rebalance` of a service, or that of the whole file; nil when neither is there.
func (c *conversion) rebalance(at string, ext map[string]any) *bool {
	v := ext["x-rebalance"]
	if v == nil {
		at, v = "", c.project.Extensions["x-rebalance"]
	}
	switch b := v.(type) {
	case nil:
		return nil
	case bool:
		return &b
	}
	if at != "" {
		at += "."
	}
	c.problem(at+"x-rebalance", "%.40v is neither true nor false", v)
	return nil
}
