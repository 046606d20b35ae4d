package compose

import (
	"fmt"
	"time"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
)

// changing reads shoal's own words on how a service changes: canaries, and how it leaves.
func (c *conversion) changing(at string, s *types.ServiceConfig, out *job.Service) {
	if v, ok := s.Extensions["x-drain"]; ok {
		d, err := time.ParseDuration(fmt.Sprint(v))
		switch {
		case err != nil:
			c.problem(at+".x-drain", "%.40q is not a time; write it as in 5s or 1m30s", fmt.Sprint(v))
		case d == 0:
			out.Drain = job.NoDrain // zero means "none" in the file and "the default" in the spec
		case d < 0:
			c.problem(at+".x-drain", "%v is negative", d)
		default:
			out.Drain = d
		}
	}
	where := at + ".x-canary"
	canary, ok := s.Extensions["x-canary"]
	var auto any
	if s.Deploy != nil && s.Deploy.UpdateConfig != nil {
		ext := s.Deploy.UpdateConfig.Extensions
		if v, inner := ext["x-canary"]; inner {
			if ok {
				c.problem(where, "deploy.update_config has it too; say it once")
			}
			canary, ok, where = v, true, at+".deploy.update_config.x-canary"
		}
		auto = ext["x-auto-promote"]
	}
	if ok {
		n, isWhole := wholeNumber(canary)
		if !isWhole {
			c.problem(where, "%.40q is not a number of tasks", fmt.Sprint(canary))
			return
		}
		c.update(out).Canaries = n
	}
	switch auto {
	case nil, false, "false":
	case true, "true":
		c.update(out).AutoPromote = true
	default:
		c.problem(at+".deploy.update_config.x-auto-promote", "%.40q is neither true nor false", fmt.Sprint(auto))
	}
}

func (c *conversion) update(out *job.Service) *job.Update {
	if out.Update == nil {
		out.Update = &job.Update{}
	}
	return out.Update
}
