package state

import (
	"fmt"
	"testing"
	"time"

	"shoal/consensus/job"
)

// manyTasks is a store with one job of n tasks on 100 nodes.
func manyTasks(b *testing.B, n int) *log {
	l := newLog(b)
	l.do(InitCluster{Cluster: job.Cluster{ID: "c", Pool: mustPrefix("10.0.0.0/8"), SubnetBits: 24}, At: t0})
	for i := range 100 {
		nd := aNode(fmt.Sprint("n", i))
		nd.Capacity = job.Resources{}
		l.do(PutNode{Node: nd, At: t0})
	}
	s := aSpec("j", n)
	s.Services[0].Limits = job.Resources{}
	j := l.do(PutJob{Spec: s, At: t0}).Value.(*job.Job)
	d := j.Spec.Services[0].Digest()
	for from := 0; from < n; from += 5000 {
		p := Plan{Base: l.index, At: t0}
		for i := from; i < min(from+5000, n); i++ {
			p.Place = append(p.Place, job.Task{
				ID: job.TaskID(fmt.Sprintf("%013d", i)), Job: "j", Service: "web", Digest: d, Slot: i + 1,
				Node: job.NodeID(fmt.Sprint("id-n", i%100)), Desired: job.DesiredRun, Placed: t0, Cause: "submitted",
			})
		}
		if r := l.do(p).Value.(*PlanResult); len(r.Refused) > 0 {
			b.Fatal(r.Refused[0])
		}
	}
	l.raw = nil
	return l
}

// BenchmarkReport: a report costs by its own size, not by how many tasks there are.
func BenchmarkReport(b *testing.B) {
	for _, tasks := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("tasks=%d", tasks), func(b *testing.B) {
			l := manyTasks(b, tasks)
			b.ResetTimer()
			for i := range b.N {
				r := Report{Node: "id-n0", At: t0}
				for k := range 10 {
					r.Statuses = append(r.Statuses, job.Status{
						Task: job.TaskID(fmt.Sprintf("%013d", k*100)), Seq: uint64(i + 1), State: job.Running,
						Health: []job.Healthiness{job.Healthy, job.Unhealthy}[i%2], At: map[job.State]time.Time{job.Running: t0},
					})
				}
				l.do(r)
				l.raw = nil
			}
		})
	}
}

// BenchmarkPlace applies plans of 1,200 placements.
func BenchmarkPlace(b *testing.B) {
	for range b.N {
		b.StopTimer()
		l := manyTasks(b, 0)
		l.do(ScaleJob{Job: "j", Replicas: map[string]int{"web": 1200}, At: t0})
		j := l.s.View().Job("j")
		p := Plan{Base: l.index, At: t0}
		for i := range 1200 {
			p.Place = append(p.Place, aTask(j, i+1, fmt.Sprintf("%013d", i), fmt.Sprint("n", i%100)))
		}
		b.StartTimer()
		l.do(p)
	}
	b.ReportMetric(float64(1200*b.N)/b.Elapsed().Seconds(), "placements/s")
}
