package consensus

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// BenchmarkReplay starts a node whose log has 8,000 changes since its last snapshot: half new versions of twelve jobs, half
// new scales of them. entries/s is from Open to the last one applied again.
func BenchmarkReplay(b *testing.B) {
	const entries, jobs, writers = 8_000, 12, 64
	dir := filepath.Join(b.TempDir(), "raft")
	l, stop := founder(b, dir)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	propose := func(c state.Command) {
		if r, err := l.Propose(b.Context(), c); err != nil || r.Err != nil {
			b.Errorf("propose %T: %v %v", c, err, r.Err)
		}
	}
	spec := func(k, version int) job.Spec {
		return job.Spec{Name: fmt.Sprint("job", k), Services: []job.Service{{
			Name: "web", Image: "nginx:latest", Replicas: version % 5, Command: []string{"sh", "-c", "echo and sleep 1000"},
			Env: []string{"VERSION=" + fmt.Sprint(version), "PATH=/usr/bin:/bin", "PEER=other.service"},
		}}}
	}
	propose(state.InitCluster{Cluster: job.Cluster{ID: "c", Pool: netip.MustParsePrefix("10.0.0.0/8"), SubnetBits: 24}, At: at})
	for k := range jobs {
		propose(state.PutJob{Spec: spec(k, 0), At: at})
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; i < entries; i += writers {
				if i%2 == 0 {
					propose(state.PutJob{Spec: spec(i/2%jobs, i), At: at})
				} else {
					propose(state.ScaleJob{Job: fmt.Sprint("job", i/2%jobs), Replicas: map[string]int{"web": i % 7}, At: at})
				}
			}
		})
	}
	wg.Wait()
	last := l.raft.LastIndex()
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	var open time.Duration
	for range b.N {
		began := time.Now()
		l, store, err := openDir(b, dir)
		if err != nil {
			b.Fatal(err)
		}
		open += time.Since(began)
		stop := run(l)
		if err := store.WaitIndex(b.Context(), last); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := stop(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N*entries)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(open.Seconds()*1000/float64(b.N), "ms-open")
}

// The next snapshot waits for as many entries as the last one was large.
func TestSnapshotsOfASmallStateAreFrequent(t *testing.T) {
	for bytes, want := range map[int64]uint64{0: 2048, 8 << 20: 2048 + 1024, 1 << 40: 8192} {
		if got := entriesFor(bytes); got != want {
			t.Errorf("after a snapshot of %d bytes: every %d entries, want %d", bytes, got, want)
		}
	}
	l, stop := founder(t, filepath.Join(t.TempDir(), "raft"))
	before := l.raft.ReloadableConfig().SnapshotThreshold
	for i := range 20 {
		if r, err := l.Propose(t.Context(), event(strings.Repeat(fmt.Sprint(i), 4000))); err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
	}
	if err := l.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if after := l.raft.ReloadableConfig().SnapshotThreshold; before != 2048 || after <= before || after > 2148 {
		t.Errorf("a snapshot every %d entries before, %d after one of about 100 KB", before, after)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
