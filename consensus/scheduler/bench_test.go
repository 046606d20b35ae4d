package scheduler

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// BenchmarkPlan is the work of Nomad's BenchmarkServiceScheduler: nodes in 50 racks, half of the racks eligible by a
// constraint, one job whose tasks are all placed in one plan, with and without spread over racks.
func BenchmarkPlan(b *testing.B) {
	for _, nodes := range []int{500, 5000, 20_000} {
		for _, tasks := range []int{1, 300, 1200} {
			for _, spread := range []string{"no", "racks"} {
				b.Run(fmt.Sprintf("nodes=%d/tasks=%d/spread=%s", nodes, tasks, spread), func(b *testing.B) { benchmarkPlan(b, nodes, tasks, spread == "racks") })
			}
		}
	}
}

// bigCluster is a store with so many nodes in 50 racks, every second one drained if so wanted.
func bigCluster(b *testing.B, nodes int, drained bool) *state.Store {
	s := state.New()
	index := uint64(0)
	apply := func(c state.Command) {
		raw, err := state.Encode(c)
		if err != nil {
			b.Fatal(err)
		}
		index++
		if r := s.Apply(index, raw); r.Err != nil {
			b.Fatal(r.Err)
		}
	}
	apply(state.InitCluster{Cluster: job.Cluster{ID: "c", Pool: netip.MustParsePrefix("10.0.0.0/8"), SubnetBits: 24, Rules: state.Rules}})
	for i := range nodes {
		n := job.Node{
			ID: job.NodeID(fmt.Sprintf("%016x%016x", uint64(i+1)*0x9e3779b97f4a7c15, i)), Name: fmt.Sprintf("n%d", i),
			Labels:   map[string]string{"rack": fmt.Sprint(i % 50)},
			Capacity: job.Resources{NanoCPUs: int64(4+i%3) * 1e9, MemoryBytes: 64 << 30}, Rules: state.Rules,
		}
		apply(state.PutNode{Node: n})
		if drained && i%2 == 1 {
			apply(state.SetDrain{Node: n.ID, Drained: true})
		}
	}
	return s
}

// BenchmarkReplace is one failed task of a service with a task on every node.
func BenchmarkReplace(b *testing.B) {
	for _, nodes := range []int{500, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			p := New(bigCluster(b, nodes, true).View())
			now := time.Unix(1, 0)
			sv := job.Service{Name: "web", Replicas: nodes / 2, Image: "web", Reservations: job.Resources{NanoCPUs: 1e8, MemoryBytes: 64 << 20}}
			next := func(cs ...state.Change) { p.Update(state.Batch{Index: p.index + 1, Changes: cs}) }
			next(state.Change{Table: state.TableJobs, After: &job.Job{Name: "j", Spec: job.Spec{Name: "j", Services: []job.Service{sv}}}})
			come := func() job.Task {
				pl, _ := p.Plan(now, 0)
				for i := range pl.Place {
					next(state.Change{Table: state.TableTasks, After: &pl.Place[i]},
						state.Change{Table: state.TableStatuses, After: &job.Status{Task: pl.Place[i].ID, State: job.Running}})
				}
				return pl.Place[0]
			}
			last := come()
			b.ResetTimer()
			for range b.N {
				next(state.Change{Table: state.TableTasks, Before: &last})
				last = come()
			}
		})
	}
}

func benchmarkPlan(b *testing.B, nodes, tasks int, spread bool) {
	now := time.Unix(1, 0)
	p := New(bigCluster(b, nodes, false).View())
	var racks []string
	for i := 0; i < 50; i += 2 {
		racks = append(racks, fmt.Sprint(i))
	}
	sv := job.Service{
		Name: "web", Replicas: tasks, Image: "web", Reservations: job.Resources{NanoCPUs: 1e8, MemoryBytes: 64 << 20},
		Constraints: []job.Constraint{{Key: "node.labels.rack", Op: "in", Value: strings.Join(racks, ",")}},
	}
	if spread {
		sv.Placement = &job.Placement{Spread: []string{"node.labels.rack"}}
	}
	j := &job.Job{Name: "j", Spec: job.Spec{Name: "j", Services: []job.Service{sv}}}
	once := func() {
		p.Update(state.Batch{Index: p.index + 1, Changes: []state.Change{{Table: state.TableJobs, After: j}}})
		pl, _ := p.Plan(now, 0)
		if len(pl.Place) != tasks {
			b.Fatalf("%d placed", len(pl.Place))
		}
		p.Update(state.Batch{Index: p.index + 1, Changes: []state.Change{{Table: state.TableJobs, Before: j}}})
		p.Plan(now, 0)
	}
	once() // the first job with new constraints pays for a pass over all nodes: BenchmarkClass
	b.ResetTimer()
	b.ReportAllocs()
	for range b.N {
		once()
	}
	b.ReportMetric(float64(tasks*b.N)/b.Elapsed().Seconds(), "placements/s")
}

// BenchmarkClass is what the first job with new constraints pays.
func BenchmarkClass(b *testing.B) {
	for _, nodes := range []int{500, 5000, 20_000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			p := New(bigCluster(b, nodes, false).View())
			sv := job.Service{Constraints: []job.Constraint{{Key: "node.labels.rack", Op: "!=", Value: "1"}}, Placement: &job.Placement{Spread: []string{"node.labels.rack"}}}
			b.ResetTimer()
			for range b.N {
				c := p.useClass(&sv)
				b.StopTimer()
				for _, l := range c.leaves {
					for _, e := range l.heap {
						e.n.entries = nil
					}
				}
				delete(p.classes, c.key)
				b.StartTimer()
			}
		})
	}
}
