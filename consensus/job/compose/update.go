package compose

import (
	"strconv"
	"time"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
)

// updateOf converts `deploy.update_config` or `deploy.rollback_config`; what makes no sense, the spec's validation says.
func updateOf(u *types.UpdateConfig) *job.Update {
	if u == nil {
		return nil
	}
	out := &job.Update{
		Delay: time.Duration(u.Delay), Monitor: time.Duration(u.Monitor),
		Order: job.UpdateOrder(u.Order), Failure: job.FailureAction(u.FailureAction),
	}
	// By way of its shortest text: 0.1 as a float32 is 0.10000000149.
	out.MaxFailureRatio, _ = strconv.ParseFloat(strconv.FormatFloat(float64(u.MaxFailureRatio), 'g', -1, 32), 64) // it was just written
	if u.Parallelism != nil {
		out.Parallelism = job.AllAtOnce // Docker's 0
		if *u.Parallelism > 0 {
			out.Parallelism = int(min(*u.Parallelism, job.MaxReplicas+1)) // Validate says that it is too much
		}
	}
	return out
}
