package container_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"shoal/runtime"
)

// figures are samples by what was measured, for a program that sets them beside goals (e2e/bench).
type figures map[string][]float64

// BenchmarkSpeed writes the figures of a start beside those of runc, crun and, if SHOAL_BENCH_DOCKER is its socket, docker, to
// the file SHOAL_BENCH_OUT: run with -benchtime 1x. SHOAL_BENCH_ROUNDS is the number of samples (30). All contestants run once
// in each round, so that other work on the machine hits all alike.
func BenchmarkSpeed(b *testing.B) {
	r := newRig(b)
	rounds, _ := strconv.Atoi(os.Getenv("SHOAL_BENCH_ROUNDS"))
	if rounds <= 0 {
		rounds = 30
	}
	bundle := r.bundle(b)
	all := []contestant{r.ours("shoal", r.rt)}
	for _, name := range []string{"runc", "crun"} {
		if _, err := exec.LookPath(name); err == nil {
			all = append(all, r.peer(name, bundle))
		}
	}
	d, docker := r.docker(b, bundle)
	if docker {
		all = append(all, d)
	}
	out := figures{}
	for round := range rounds + 1 {
		for _, c := range all {
			time.Sleep(250 * time.Millisecond) // warm means: what the last one left is done, and launchers wait
			run := timed(b, func() error { return c.run(fmt.Sprint("two", round)) })
			if c.seen != nil {
				run = c.seen()
			}
			time.Sleep(100 * time.Millisecond)
			in := timed(b, c.exec)
			if round > 0 {
				out[c.name] = append(out[c.name], ms(run))
				out[c.name+": exec true"] = append(out[c.name+": exec true"], ms(in))
			}
		}
	}
	r.quotas(b, rounds, out)
	const many = 200
	out["shoal: 200 at once"] = []float64{r.atOnce(b, many, func(id string) error {
		s := runtime.Spec{ID: runtime.ID(id), Image: testImage, Command: []string{"sleep", "600"}}
		if _, err := r.rt.Create(b.Context(), s); err != nil {
			return err
		}
		_, err := r.rt.Start(b.Context(), s.ID)
		return err
	})}
	for i := range many {
		if err := r.rt.Remove(b.Context(), runtime.ID(fmt.Sprint("many", i))); err != nil {
			b.Fatal(err)
		}
	}
	if docker {
		const few = 40 // at its pace 200 would take minutes
		out["docker: 40 at once"] = []float64{r.atOnce(b, few, func(id string) error {
			return dockerDo("run", "--detach", "--name", id, testImage, "sleep", "600")
		})}
		for i := range few {
			_ = dockerDo("rm", "--force", fmt.Sprint("many", i))
		}
	}
	text, err := json.Marshal(out)
	if err != nil {
		b.Fatal(err)
	}
	if to := os.Getenv("SHOAL_BENCH_OUT"); to != "" {
		if err := os.WriteFile(to, text, 0o644); err != nil {
			b.Fatal(err)
		}
		return
	}
	fmt.Printf("%s\n", text)
}

// atOnce starts n containers together and gives containers a second.
func (r *rig) atOnce(b *testing.B, n int, start func(id string) error) float64 {
	var group sync.WaitGroup
	errs := make(chan error, n)
	t := time.Now()
	for i := range n {
		group.Go(func() { errs <- start(fmt.Sprint("many", i)) })
	}
	group.Wait()
	took := time.Since(t)
	for range n {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / took.Seconds()
}

// quotas measures create and start with and without a quota of 0.05 CPU, in turn.
func (r *rig) quotas(b *testing.B, rounds int, out figures) {
	for round := range rounds {
		for name, cpus := range map[string]int64{"shoal: start": 0, "shoal: start with 0.05 CPU": 50_000_000} {
			s := runtime.Spec{ID: runtime.ID(fmt.Sprint("quota", round)), Image: testImage, Command: []string{"sleep", "600"}, Resources: runtime.Resources{NanoCPUs: cpus}}
			time.Sleep(250 * time.Millisecond)
			took := timed(b, func() error {
				if _, err := r.rt.Create(b.Context(), s); err != nil {
					return err
				}
				_, err := r.rt.Start(b.Context(), s.ID)
				return err
			})
			out[name] = append(out[name], ms(took))
			if err := r.rt.Remove(b.Context(), s.ID); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func dockerDo(args ...string) error {
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+os.Getenv("SHOAL_BENCH_DOCKER"), "DOCKER_CONTEXT=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker %v: %w: %s", args, err, out)
	}
	return nil
}

// docker is a daemon that somebody else has started; it gets the same files as image.
func (r *rig) docker(b *testing.B, root string) (contestant, bool) {
	if os.Getenv("SHOAL_BENCH_DOCKER") == "" {
		return contestant{}, false
	}
	archive := r.dir + "/docker.tar"
	if out, err := exec.Command("tar", "-C", root, "-cf", archive, ".").CombinedOutput(); err != nil {
		b.Fatalf("tar: %v: %s", err, out)
	}
	for _, args := range [][]string{
		{"import", "--change", "ENV PATH=/bin", archive, testImage}, {"run", "--detach", "--name", "host", testImage, "sleep", "600"},
	} {
		if err := dockerDo(args...); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() { _ = dockerDo("rm", "--force", "host") })
	return contestant{
		name: "docker run",
		run:  func(id string) error { return dockerDo("run", "--rm", testImage, "true") },
		exec: func() error { return dockerDo("exec", "host", "true") },
	}, true
}
