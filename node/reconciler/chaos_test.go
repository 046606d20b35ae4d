package reconciler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
	"shoal/runtime/fake"
)

// TestAnyOrderOfTroubleConverges throws everything at a node in an order that a seed decides: new tasks, stops, sets
// that come twice or late, failing calls, exits, crashes of the agent and of the machine, a leader that does not answer.
// Afterwards the containers must be those of the tasks, and the rig holds meanwhile what must hold of reports.
func TestAnyOrderOfTroubleConverges(t *testing.T) {
	for seed := uint64(1); seed <= 12; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {Absent: true, PullDelay: time.Second}}, Latency: 50 * time.Millisecond},
				func(g *rig) { chaos(g, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func chaos(g *rig, rnd *rand.Rand) {
	var tasks []Assignment // as the leader has them
	index, boots := uint64(1), 1
	some := func() *Assignment { return &tasks[rnd.IntN(len(tasks))] }
	add := func() {
		id := job.TaskID(fmt.Sprintf("t%03d", index))
		a := web(id, policy(job.Restart{Max: 1000, Delay: time.Millisecond}), func(a *Assignment) { a.Task.Index = index })
		if rnd.IntN(3) == 0 {
			port(uint16(8000 + rnd.IntN(2)))(&a)
			for i := range tasks { // a port is free only when the one before is to stop
				if slices.EqualFunc(tasks[i].Service.Ports, a.Service.Ports, func(x, y job.Port) bool { return x == y }) {
					tasks[i].Task.Desired = job.DesiredStop
				}
			}
		}
		tasks = append(tasks, a)
	}
	calls := []fake.Call{fake.CallPull, fake.CallCreate, fake.CallStart, fake.CallStop, fake.CallRemove, fake.CallList}
	for range 60 {
		index++
		switch p := rnd.IntN(12); {
		case len(tasks) < 2 || p < 2:
			add()
		case p == 2:
			some().Task.Desired = job.DesiredStop
		case p == 3:
			i := rnd.IntN(len(tasks))
			tasks = slices.Delete(tasks, i, i+1)
		case p == 4:
			g.rt.FailNext(calls[rnd.IntN(len(calls))], "", 1+rnd.IntN(2), []error{runtime.ErrBusy, runtime.ErrNoSpace}[rnd.IntN(2)])
		case p == 5:
			g.rt.Exit(runtime.ID(some().Task.ID), rnd.IntN(3))
		case p == 6:
			g.setDeaf(rnd.IntN(2) == 0)
		case p == 7:
			g.stop()
			g.start()
		case p == 8:
			g.stop()
			if rnd.IntN(2) == 0 {
				g.rt.Crash()
			} else {
				g.rt.PowerCut()
			}
			boots++
			g.boot = fmt.Sprint("boot-", boots)
			g.start()
		case p == 9:
			g.rt.LoseEvents()
		case p == 10:
			_ = g.rt.Remove(context.Background(), runtime.ID(some().Task.ID))
		default:
			g.r.ReportAll()
		}
		switch rnd.IntN(4) {
		case 0: // the node hears nothing of it
		case 1:
			if len(tasks) > 0 {
				g.r.Set([]Assignment{*some()}, index, false)
			}
		default:
			g.r.Set(tasks, index, true)
		}
		g.pass(time.Duration(rnd.IntN(1500)) * time.Millisecond)
	}

	g.rt.Heal()
	g.setDeaf(false)
	g.r.Set(tasks, index+1, true)
	g.pass(5 * time.Minute)
	wanted := map[runtime.ID]bool{}
	for _, a := range tasks {
		s := g.status(a.Task.ID)
		if a.Task.Desired != job.DesiredRun {
			if !s.State.Terminal() {
				g.Errorf("task %s was to stop: %s", a.Task.ID, describe(s))
			}
			continue
		}
		wanted[runtime.ID(a.Task.ID)] = true
		if !s.Ready() {
			g.Errorf("task %s was to run: %s", a.Task.ID, describe(s))
		}
	}
	infos, err := g.rt.List(context.Background())
	if err != nil {
		g.Fatal(err)
	}
	for _, in := range infos {
		if !wanted[in.ID] || in.State != runtime.Running {
			g.Errorf("container %s is %s, wanted %v", in.ID, in.State, wanted[in.ID])
		}
		delete(wanted, in.ID)
	}
	for id := range wanted {
		g.Errorf("container %s is missing", id)
	}
	for _, s := range g.r.Statuses() {
		if l := g.status(s.Task); describe(l) != describe(s) {
			g.Errorf("task %s: the leader knows %s, true is %s", s.Task, describe(l), describe(s))
		}
	}
}
