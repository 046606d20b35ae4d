package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"shoal/runtime"
)

// BenchmarkCreateStart times create and start up to the first instruction of the container, and to Start's return.
func BenchmarkCreateStart(b *testing.B) {
	r := newRig(b)
	r.run(runtime.Spec{ID: "warm", Command: []string{"true"}})
	out := b.TempDir()
	os.Chmod(out, 0o777)
	var first, create, start time.Duration
	for i := range b.N {
		id := runtime.ID(fmt.Sprint("b", i))
		// The clock of the wall is the same inside; busybox date has no nanoseconds, so the file's time tells.
		s := runtime.Spec{
			ID: id, Image: testImage, Command: []string{"sh", "-c", ": > /out/" + string(id)},
			Mounts: []runtime.Mount{{Type: runtime.MountBind, Source: out, Target: "/out"}},
		}
		t0 := time.Now()
		r.create(s)
		t1 := time.Now()
		if _, err := r.rt.Start(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		r.stopped(id)
		st, err := os.Stat(filepath.Join(out, string(id)))
		if err != nil {
			b.Fatal(err)
		}
		first, create, start = first+st.ModTime().Sub(t0), create+t1.Sub(t0), start+t2.Sub(t1)
		b.StopTimer()
		if err := r.rt.Remove(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 / float64(b.N) }
	b.ReportMetric(ms(first), "ms-to-first-instruction")
	b.ReportMetric(ms(create), "ms-create")
	b.ReportMetric(ms(start), "ms-start")
}

// BenchmarkMonitorMemory tells what a monitor costs beside nine others.
func BenchmarkMonitorMemory(b *testing.B) {
	r := newRig(b)
	const n = 10
	for i := range n {
		r.run(runtime.Spec{ID: runtime.ID(fmt.Sprint("m", i)), Command: []string{"sleep", "600"}})
	}
	sum := map[string]float64{}
	for range b.N {
		clear(sum)
		for i := range n {
			pid := r.monitorOf(runtime.ID(fmt.Sprint("m", i)))
			for k, v := range smaps(b, pid) {
				sum[k] += float64(v) / n
			}
		}
	}
	b.ReportMetric(sum["Rss"], "KiB-RSS")
	b.ReportMetric(sum["Pss"], "KiB-PSS")
	b.ReportMetric(sum["Private_Dirty"], "KiB-dirty")
	b.ReportMetric(sum["Private_Dirty"]+sum["Private_Clean"], "KiB-private")
}

func BenchmarkExec(b *testing.B) {
	r := newRig(b)
	r.run(runtime.Spec{ID: "host", Command: []string{"sleep", "600"}})
	before := threads(b)
	b.ResetTimer()
	for range b.N {
		if _, code := r.exec("host", "true"); code != 0 {
			b.Fatal(code)
		}
	}
	b.ReportMetric(float64(threads(b)-before), "threads-more")
}

func threads(b testing.TB) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "Threads:\t")
	n, _ := strconv.Atoi(strings.Fields(rest)[0])
	return n
}
