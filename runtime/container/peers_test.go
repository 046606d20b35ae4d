package container_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container"
)

// contestant runs "true" in a busybox, one way or another.
type contestant struct {
	name string
	run  func(id string) error // from nothing to the exit code, and what it left is removed
	seen func() time.Duration  // how long the last run took to the exit code alone; nil: not told apart
	exec func() error          // in a container that runs already; nil: not measured
	min  func(id string, memory int64) error
}

// BenchmarkBesidePeers measures what this package does beside what others do, one after the other in each round, so that
// the machine's other work hits all alike: run with -benchtime 1x. SHOAL_BENCH_ROUNDS is the number of samples (30).
// SHOAL_BINARY, if given, is a whole binary that competes without its small program.
func BenchmarkBesidePeers(b *testing.B) {
	r := newRig(b)
	rounds, _ := strconv.Atoi(os.Getenv("SHOAL_BENCH_ROUNDS"))
	if rounds <= 0 {
		rounds = 30
	}
	all := []contestant{r.ours("shoal", r.rt)}
	if self := os.Getenv("SHOAL_BINARY"); self != "" {
		whole, err := container.New(container.Config{
			Dir: filepath.Join(r.dir, "whole"), StateDir: filepath.Join(r.dir, "whole-run"), Images: r.img, Network: r.net,
			Volumes: r.vol, CgroupParent: r.cgroup + "-whole", Self: self,
		})
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, r.ours("shoal, whole binary", whole))
	}
	bundle := r.bundle(b)
	for _, name := range []string{"runc", "crun"} {
		if _, err := exec.LookPath(name); err != nil {
			b.Logf("%s is not installed (Debian: %s)", name, name)
			continue
		}
		all = append(all, r.peer(name, bundle))
	}
	var table bytes.Buffer
	for _, m := range []struct {
		what string
		do   func(c contestant, round int) (time.Duration, bool)
	}{
		{"create, start, exit, remove", func(c contestant, round int) (time.Duration, bool) {
			return timed(b, func() error { return c.run(fmt.Sprint("one", round)) }), true
		}},
		{"create, start, exit", func(c contestant, round int) (time.Duration, bool) {
			all := timed(b, func() error { return c.run(fmt.Sprint("two", round)) })
			if c.seen != nil {
				return c.seen(), true
			}
			return all, true
		}},
		{"exec true", func(c contestant, round int) (time.Duration, bool) {
			return timed(b, c.exec), true
		}},
		{"24 containers, four at a time", func(c contestant, round int) (time.Duration, bool) {
			return timed(b, func() error { return fourAtATime(24, c.run) }), round < max(1, rounds/6)
		}},
	} {
		samples, cpu := map[string][]time.Duration{}, map[string][]time.Duration{}
		for round := range rounds {
			for _, c := range all {
				before := cpuTime()
				if d, ok := m.do(c, round); ok {
					time.Sleep(50 * time.Millisecond) // what was started has ended and is reaped
					samples[c.name], cpu[c.name] = append(samples[c.name], d), append(cpu[c.name], cpuTime()-before)
				} else {
					break
				}
			}
		}
		fmt.Fprintf(&table, "%s\n", m.what)
		own, ownCPU := median(samples[all[0].name]), median(cpu[all[0].name])
		for _, c := range all {
			s := samples[c.name]
			fmt.Fprintf(&table, "  %-22s median %7.1f ms   p95 %7.1f ms   shoal's share of it %.2f   processor %6.1f ms, %.2f\n", c.name, ms(median(s)), ms(s[len(s)*95/100]),
				ms(own)/ms(median(s)), ms(median(cpu[c.name])), ms(ownCPU)/ms(median(cpu[c.name])))
		}
	}
	fmt.Fprintln(&table, "least memory limit that starts")
	for _, c := range all {
		fmt.Fprintf(&table, "  %-22s %.1f MiB\n", c.name, float64(leastMemory(c))/(1<<20))
	}
	fmt.Print("\n", table.String()) // b.Log cuts it off
}

// cpuTime is what this process and those that it or its children waited for have used. Unlike the clock on the wall it
// hardly depends on what else the machine does.
func cpuTime() time.Duration {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += u.Utime.Nano() + u.Stime.Nano()
		}
	}
	return time.Duration(sum)
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// median sorts s.
func median(s []time.Duration) time.Duration {
	slices.Sort(s)
	return s[len(s)/2]
}

func timed(b *testing.B, do func() error) time.Duration {
	b.Helper()
	t := time.Now()
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return time.Since(t)
}

func fourAtATime(n int, run func(id string) error) error {
	ids, errs := make(chan string), make(chan error, n)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for id := range ids {
				if err := run(id); err != nil {
					errs <- err
				}
			}
		})
	}
	for i := range n {
		ids <- fmt.Sprint("many", i)
	}
	close(ids)
	workers.Wait()
	close(errs)
	return <-errs
}

// leastMemory is the smallest limit, in steps of half a MiB, with which three starts of three work.
func leastMemory(c contestant) int64 {
	const step = 1 << 19
	for limit := int64(2 * step); limit < 64*step; limit += step {
		works := true
		for i := range 3 {
			works = works && c.min(fmt.Sprint("small", i), limit) == nil
		}
		if works {
			return limit
		}
	}
	return 0
}

func (r *rig) ours(name string, rt *container.Runtime) contestant {
	ctx := r.Context()
	host := runtime.Spec{ID: "host", Image: testImage, Command: []string{"sleep", "600"}}
	if _, err := rt.Create(ctx, host); err != nil {
		r.Fatal(err)
	}
	if _, err := rt.Start(ctx, host.ID); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = rt.Remove(context.Background(), host.ID) })
	var took time.Duration
	run := func(s runtime.Spec) error {
		t := time.Now()
		if _, err := rt.Create(ctx, s); err != nil {
			return err
		}
		_, err := rt.Start(ctx, s.ID)
		for err == nil {
			var in runtime.Info
			if in, err = rt.Inspect(ctx, s.ID); in.State == runtime.Stopped {
				break
			}
			time.Sleep(200 * time.Microsecond)
		}
		if s.ID[:3] == "two" {
			took = time.Since(t)
		}
		if rerr := rt.Remove(ctx, s.ID); err == nil {
			err = rerr
		}
		return err
	}
	return contestant{
		name: name,
		run: func(id string) error {
			return run(runtime.Spec{ID: runtime.ID(id), Image: testImage, Command: []string{"true"}})
		},
		seen: func() time.Duration { return took },
		exec: func() error {
			_, err := rt.Exec(ctx, host.ID, runtime.Exec{Args: []string{"true"}})
			return err
		},
		min: func(id string, memory int64) error {
			return run(runtime.Spec{ID: runtime.ID(id), Image: testImage, Command: []string{"true"}, Resources: runtime.Resources{MemoryBytes: memory}})
		},
	}
}

// bundle unpacks the same busybox for programs that take a directory, and gives the file system's path.
func (r *rig) bundle(b *testing.B) string {
	root := filepath.Join(r.dir, "bundle-root")
	for _, f := range busyboxTree(b) {
		to := filepath.Join(root, f.Path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			b.Fatal(err)
		}
		var err error
		switch {
		case f.Mode.IsDir():
			err = os.MkdirAll(to, f.Mode.Perm())
		case f.Link != "":
			err = os.Symlink(f.Link, to)
		case f.Path == "/bin/busybox":
			var program []byte
			if program, err = os.ReadFile(busyboxPath); err == nil {
				err = os.WriteFile(to, program, 0o755)
			}
		default:
			err = os.WriteFile(to, f.Data, f.Mode.Perm())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return root
}

// peer is runc or crun, with Docker's mounts and native seccomp filter.
func (r *rig) peer(name, root string) contestant {
	hidden := make(chan func())
	var outputs atomic.Int64 // several run at once
	go inNamespaceWithoutCgroup2(hidden)
	r.Cleanup(func() { close(hidden) })
	run := func(args ...string) error {
		// A file, not a pipe: what runs detached keeps it open.
		out, err := os.Create(filepath.Join(r.dir, name+fmt.Sprint(outputs.Add(1))+".out"))
		if err != nil {
			return err
		}
		defer out.Close()
		done := make(chan error, 1)
		hidden <- func() {
			cmd := exec.Command(name, append([]string{"--root", filepath.Join(r.dir, name)}, args...)...)
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				done <- err
				return
			}
			go func() { done <- cmd.Wait() }()
		}
		if err := <-done; err != nil {
			said, _ := os.ReadFile(out.Name())
			return fmt.Errorf("%s %v: %w: %s", name, args, err, said)
		}
		return nil
	}
	write := func(dir string, memory int64, args ...string) string {
		dir = filepath.Join(r.dir, "bundle-"+name+"-"+dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			r.Fatal(err)
		}
		text, err := json.Marshal(r.peerSpec(name, root, memory, args))
		if err != nil {
			r.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
			r.Fatal(err)
		}
		return dir
	}
	once, host := write("true", 0, "/bin/true"), write("host", 0, "/bin/sleep", "600")
	if err := run("run", "--detach", "--bundle", host, "--pid-file", filepath.Join(host, "pid"), r.cgroup+"-host"); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = run("delete", "--force", r.cgroup+"-host") })
	return contestant{
		name: name + " run",
		run:  func(id string) error { return run("run", "--bundle", once, r.cgroup+"-"+name+"-"+id) },
		exec: func() error { return run("exec", r.cgroup+"-host", "/bin/true") },
		min: func(id string, memory int64) error {
			id = r.cgroup + "-" + name + "-" + id
			err := run("run", "--bundle", write("small", memory, "/bin/true"), id)
			if err != nil {
				_ = run("delete", "--force", id)
			}
			return err
		},
	}
}

func (r *rig) peerSpec(name, root string, memory int64, args []string) *specs.Spec {
	dir := r.TempDir()
	if out, err := exec.Command("runc", "spec", "--bundle", dir).CombinedOutput(); err != nil {
		r.Fatalf("runc spec: %v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		r.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(text, &s); err != nil {
		r.Fatal(err)
	}
	s.Root = &specs.Root{Path: root}
	s.Process.Args, s.Process.Terminal = args, false
	if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(&s); err != nil {
		r.Fatal(err)
	}
	s.Linux.Seccomp.Architectures = s.Linux.Seccomp.Architectures[:1]
	if memory > 0 {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	}
	return &s
}

// inNamespaceWithoutCgroup2 calls what it gets on a thread with a mount namespace in which a hybrid host looks like one
// with cgroup v1: crun refuses hybrids.
func inNamespaceWithoutCgroup2(calls <-chan func()) {
	goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS) == nil {
		_ = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		_ = unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH)
	}
	for call := range calls {
		call()
	}
}
