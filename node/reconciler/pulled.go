package reconciler

import (
	"sync"

	"shoal/consensus/job"
)

// pulls tells how far the pulls of tasks are. At most one for each task that is known.
type pulls struct {
	mu   sync.Mutex
	done map[job.TaskID][2]int64
}

func (p *pulls) note(id job.TaskID) func(done, total int64) {
	return func(done, total int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.done == nil {
			p.done = map[job.TaskID][2]int64{}
		}
		p.done[id] = [2]int64{done, total}
	}
}

func (p *pulls) forget(id job.TaskID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.done, id)
}

// Pulled tells how many bytes of a task's image are here, of how many; zeros when nothing is pulled for it.
func (r *Reconciler) Pulled(t job.TaskID) (done, total int64) {
	r.pulled.mu.Lock()
	defer r.pulled.mu.Unlock()
	p := r.pulled.done[t]
	return p[0], p[1]
}
