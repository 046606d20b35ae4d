package nodetest

import (
	"time"
)

// watchLeased looks at all machines all the time: no slot may ever have two containers under a lease that run, whatever
// becomes of agents, disks and network. The returned function ends it.
func (s *sim) watchLeased() (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			where := map[place]string{}
			for _, m := range s.Machines {
				for _, i := range m.Runtime.RunningLeased() {
					p := place{i.Labels["shoal.job"], i.Labels["shoal.service"], i.Labels["shoal.slot"]}
					if o := where[p]; o != "" {
						s.audit.accuse("%v: fenced %v runs on %s and on %s (%s)", time.Since(s.start), p, o, m.Name, i.ID)
					}
					where[p] = m.Name + " (" + string(i.ID) + ")"
				}
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-done }
}
