package compose

import (
	"fmt"
	"math"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
)

// placement converts `deploy.placement`, generic resources, and shoal's own keys for where tasks had better be.
func (c *conversion) placement(at string, s *types.ServiceConfig, out *job.Service) {
	pl := job.Placement{}
	if s.Deploy != nil {
		for i, text := range s.Deploy.Placement.Constraints {
			if con, ok := c.constraint(fmt.Sprintf("%s.deploy.placement.constraints[%d]", at, i), text); ok {
				out.Constraints = append(out.Constraints, con)
			}
		}
		for i, f := range s.Deploy.Placement.Preferences {
			if f.Spread == "" {
				c.problem(fmt.Sprintf("%s.deploy.placement.preferences[%d]", at, i), "there is no `spread` in it; write for example spread: node.labels.zone")
			}
			pl.Spread = append(pl.Spread, f.Spread)
		}
		pl.MaxPerNode = int(min(s.Deploy.Placement.MaxReplicas, math.MaxInt32))
		if r := s.Deploy.Resources.Reservations; r != nil {
			out.Generic = c.generic(at+".deploy.resources.reservations", r)
		}
	}
	if v, ok := s.Extensions["x-priority"]; ok {
		if n, ok := wholeNumber(v); ok {
			out.Priority = &n
		} else {
			c.problem(at+".x-priority", "%.40v is not a number from 0 to %d", v, job.MaxPriority)
		}
	}
	if v, ok := s.Extensions["x-strategy"]; ok {
		out.Strategy = job.Strategy(c.word(at+".x-strategy", v))
	}
	c.ownPlacement(at+".x-placement", s.Extensions["x-placement"], &pl, out)
	out.Placement = &pl
}

// generic converts what tasks get for themselves. A device is one of a kind named by its driver, or if that is none by
// its first capability: both "driver: nvidia, capabilities: [gpu]" and "capabilities: [gpu]" ask for a gpu.
func (c *conversion) generic(at string, r *types.Resource) (out []job.GenericRequest) {
	for i, g := range r.GenericResources {
		if g.DiscreteResourceSpec == nil {
			c.problem(fmt.Sprintf("%s.generic_resources[%d]", at, i), "there is no discrete_resource_spec in it; give it kind and value")
			continue
		}
		out = append(out, job.GenericRequest{Kind: g.DiscreteResourceSpec.Kind, Count: int(g.DiscreteResourceSpec.Value)})
	}
	for i, d := range r.Devices {
		here := fmt.Sprintf("%s.devices[%d]", at, i)
		switch {
		case len(d.Capabilities) == 0:
			c.problem(here, "there are no capabilities in it; write for example capabilities: [gpu]")
			continue
		case len(d.IDs) > 0:
			c.problem(here, "device_ids name devices of one machine: give each task a `count` of them, and it learns which it has from its environment")
			continue
		case d.Count < 0:
			c.problem(here, "a count of `all` cannot be placed; give a number")
			continue
		}
		out = append(out, job.GenericRequest{Kind: d.Capabilities[0], Count: int(max(d.Count, 1))})
	}
	return out
}

func (c *conversion) constraint(at, text string) (job.Constraint, bool) {
	con, err := job.ParseConstraint(text)
	if err != nil {
		c.problem(at, "%v", err)
	}
	return con, err == nil
}

// ownPlacement reads x-placement: strategy, prefer, with, apart.
func (c *conversion) ownPlacement(at string, v any, pl *job.Placement, out *job.Service) {
	if v == nil {
		return
	}
	m, ok := v.(map[string]any)
	if !ok {
		c.problem(at, "%.40v is not a mapping with strategy, prefer, with or apart", v)
		return
	}
	if s, ok := m["strategy"]; ok {
		if out.Strategy != "" {
			c.problem(at+".strategy", "x-strategy says it too; remove one")
		}
		out.Strategy = job.Strategy(c.word(at+".strategy", s))
	}
	for i, e := range c.list(at+".prefer", m["prefer"]) {
		if f, ok := c.preference(fmt.Sprintf("%s.prefer[%d]", at, i), e); ok {
			pl.Prefer = append(pl.Prefer, f)
		}
	}
	for _, k := range []string{"with", "apart"} {
		for i, e := range c.list(at+"."+k, m[k]) {
			if r, ok := c.peer(fmt.Sprintf("%s.%s[%d]", at, k, i), e); ok {
				r.Apart = k == "apart"
				pl.Peers = append(pl.Peers, r)
			}
		}
	}
}

// preference is a constraint, or a mapping of constraint and weight.
func (c *conversion) preference(at string, v any) (job.Preference, bool) {
	f := job.Preference{Weight: job.DefaultWeight}
	text, short := v.(string)
	if m, ok := v.(map[string]any); ok {
		text, short = m["constraint"].(string)
		if w, ok := m["weight"]; ok {
			f.Weight = c.number(at+".weight", w)
		}
	}
	if !short {
		c.problem(at, "%.40v is neither a constraint nor a mapping of constraint and weight", v)
		return f, false
	}
	con, ok := c.constraint(at, text)
	f.Constraint = con
	return f, ok
}

// peer is a service, which is a must by node, or a mapping of service, by, and weight.
func (c *conversion) peer(at string, v any) (job.Peer, bool) {
	switch v := v.(type) {
	case string:
		return job.Peer{Service: v}, true
	case map[string]any:
		r := job.Peer{Service: c.word(at+".service", v["service"])}
		if by, ok := v["by"]; ok {
			r.By = c.word(at+".by", by)
		}
		if w, ok := v["weight"]; ok {
			if r.Weight = c.number(at+".weight", w); r.Weight < 1 {
				c.problem(at+".weight", "%d is not within 1 and %d; leave it out for a must", r.Weight, job.MaxWeight)
			}
		}
		return r, r.Service != ""
	}
	c.problem(at, "%.40v is neither a service nor a mapping of service, by and weight", v)
	return job.Peer{}, false
}

func (c *conversion) list(at string, v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	case string, map[string]any: // one without its dash
		return []any{v}
	}
	c.problem(at, "%.40v is not a list", v)
	return nil
}

func (c *conversion) word(at string, v any) string {
	s, ok := v.(string)
	if !ok || s == "" {
		c.problem(at, "%.40v is not a word", v)
	}
	return s
}

func (c *conversion) number(at string, v any) int {
	n, ok := wholeNumber(v)
	if !ok {
		c.problem(at, "%.40v is not a whole number", v)
	}
	return n
}

func wholeNumber(v any) (int, bool) {
	switch v := v.(type) {
	case int:
		return v, true
	case int64:
		return int(v), true
	case uint64:
		return int(min(v, math.MaxInt32)), true
	case float64:
		return int(v), v == math.Trunc(v) && math.Abs(v) < math.MaxInt32
	case string: // interpolated
		var n int
		_, err := fmt.Sscanf(v+"\n", "%d\n", &n)
		return n, err == nil
	}
	return 0, false
}
