package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"shoal/e2e/machines"
)

// kind says how a metric is judged.
type kind int

const (
	counted   kind = iota // comparable at rest only, and then nearly equal
	breathing             // a count that the Go runtime lets grow to its peak: threads
	memory                // KiB
	disk                  // KiB
)

// metrics are what is sampled, in the order in which they are shown. What ofAgent is starts anew with each agent, so that it
// is judged only where the agent is never killed.
var metrics = []metric{
	{name: "agent: RSS", kind: memory, ofAgent: true},
	{name: "agent: PSS", kind: memory, ofAgent: true},
	{name: "agent: private", kind: memory, ofAgent: true},
	{name: "agent: Go heap", kind: memory, ofAgent: true},
	{name: "agent: goroutines", kind: counted, ofAgent: true},
	{name: "agent: descriptors", kind: counted, ofAgent: true},
	{name: "agent: threads", kind: breathing, ofAgent: true},
	{name: "monitors: private, mean", kind: memory, absolute: 8},
	{name: "machine: processes", kind: counted},
	{name: "machine: cgroups", kind: counted},
	{name: "machine: mounts", kind: counted},
	{name: "machine: links", kind: counted},
	{name: "machine: nft lines", kind: counted},
	{name: "disk: all", kind: disk},
	{name: "disk: raft", kind: disk},
	{name: "disk: images", kind: disk},
	{name: "disk: containers", kind: disk},
	{name: "disk: volumes", kind: disk},
	{name: "disk: files", kind: counted},
}

type metric struct {
	name    string
	kind    kind
	ofAgent bool
	// absolute, if set, takes the place of the kind's absolute allowance.
	absolute float64
}

// sampler writes a line a figure: seconds since the start, machine, whether the load rests, metric, value.
type sampler struct {
	net     *machines.Net
	file    *os.File
	began   time.Time
	resting atomic.Bool
}

func newSampler(n *machines.Net, path string) (*sampler, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(f, "seconds,machine,rest,metric,value")
	return &sampler{net: n, file: f, began: time.Now()}, err
}

func (s *sampler) close() error { return s.file.Close() }

func (s *sampler) run(ctx context.Context) error {
	for {
		for i, m := range s.net.Machines() {
			if err := s.sample(ctx, m); err != nil && ctx.Err() == nil {
				if i == machineCount-1 {
					continue // its agent is killed now and then
				}
				return fmt.Errorf("sample %s: %w", m.Name, err)
			}
		}
		if wait(ctx, sampleEvery) != nil {
			return nil
		}
	}
}

// sample writes all figures of a machine, or none.
func (s *sampler) sample(ctx context.Context, m *machines.Machine) error {
	resting := s.resting.Load()
	var b bytes.Buffer
	put := func(name string, value float64) {
		rest := 0
		if resting {
			rest = 1
		}
		fmt.Fprintf(&b, "%.0f,%s,%d,%s,%.0f\n", time.Since(s.began).Seconds(), m.Name, rest, name, value)
	}
	if err := errors.Join(ofAgent(ctx, m, put), ofMonitors(m, put), ofMachine(ctx, m, put), ofDisk(m.DataDir(), put)); err != nil {
		return err
	}
	_, err := s.file.Write(b.Bytes())
	return err
}

func ofAgent(ctx context.Context, m *machines.Machine, put func(string, float64)) error {
	pid := m.AgentPID()
	mem, err := machines.ReadMemory(pid)
	if err != nil {
		return err
	}
	put("agent: RSS", mem.RSS)
	put("agent: PSS", mem.PSS)
	put("agent: private", mem.Private)
	for name, dir := range map[string]string{"agent: descriptors": "fd", "agent: threads": "task"} {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, dir))
		if err != nil {
			return err
		}
		put(name, float64(len(entries)))
	}
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	c := m.Client()
	defer c.Close()
	raw, err := c.Debug(ctx)
	if err != nil {
		return err
	}
	var debug struct{ Goroutines, HeapBytes float64 }
	if err := json.Unmarshal(raw, &debug); err != nil {
		return err
	}
	put("agent: goroutines", debug.Goroutines)
	put("agent: Go heap", debug.HeapBytes/1024)
	return nil
}

func ofMonitors(m *machines.Machine, put func(string, float64)) error {
	var sum, count float64
	for _, pid := range m.Monitors() {
		if mem, err := machines.ReadMemory(pid); err == nil { // else it is gone
			sum += mem.Private
			count++
		}
	}
	if count > 0 {
		put("monitors: private, mean", sum/count)
	}
	return nil
}

func ofMachine(ctx context.Context, m *machines.Machine, put func(string, float64)) error {
	proc := fmt.Sprintf("/proc/%d/", m.AgentPID())
	put("machine: processes", float64(len(m.Processes())))
	put("machine: cgroups", float64(cgroups(m.Cgroup())))
	mounts, err := os.ReadFile(proc + "mountinfo")
	if err != nil {
		return err
	}
	put("machine: mounts", float64(bytes.Count(mounts, []byte("\n"))))
	links, err := os.ReadFile(proc + "net/dev")
	if err != nil {
		return err
	}
	put("machine: links", float64(bytes.Count(links, []byte("\n"))-2)) // two lines of head
	cmd := m.Command("nft", "-s", "list", "ruleset")
	rules, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("nft: %w", err)
	}
	put("machine: nft lines", float64(bytes.Count(rules, []byte("\n"))))
	return ctx.Err()
}

// cgroups counts a machine's directories in all hierarchies.
func cgroups(name string) (count int) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name) // the pattern is right
	for _, root := range append(roots, "/sys/fs/cgroup/"+name) {
		_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				count++
			}
			return nil // what is gone meanwhile does not count
		})
	}
	return count
}

// ofDisk counts allocated blocks, as du does, of the data directory and its parts. It does not look into the containers'
// mounted file systems: what they hold in memory is no disk, and what they show of images is not theirs.
func ofDisk(dir string, put func(string, float64)) error {
	var root syscall.Stat_t
	if err := syscall.Stat(dir, &root); err != nil {
		return err
	}
	blocks := map[string]int64{}
	files := 0
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it is gone meanwhile
		}
		var st syscall.Stat_t
		if syscall.Lstat(path, &st) != nil {
			return nil
		}
		if st.Dev != root.Dev {
			return filepath.SkipDir
		}
		rel, _ := filepath.Rel(dir, path) // it is below
		part, _, _ := strings.Cut(rel, "/")
		blocks["disk: "+part] += st.Blocks
		blocks["disk: all"] += st.Blocks
		files++
		return nil
	})
	for _, m := range metrics {
		if n, ok := blocks[m.name]; ok {
			put(m.name, float64(n)/2) // blocks of 512 bytes
		}
	}
	put("disk: files", float64(files))
	return nil
}

// point is one sample of one figure.
type point struct {
	at    float64 // seconds
	value float64
	rest  bool
}

// readSamples gives metric to machine to points, in time's order. A last line that is being written does not count.
func readSamples(path string) (map[string]map[string][]point, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string][]point{}
	for line := range strings.Lines(string(b)) {
		head, value, _ := cutLast(line)
		f := strings.SplitN(head, ",", 4)
		if len(f) != 4 || f[0] == "seconds" || !strings.HasSuffix(value, "\n") {
			continue
		}
		at, err := strconv.ParseFloat(f[0], 64)
		v, err2 := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		if out[f[3]] == nil {
			out[f[3]] = map[string][]point{}
		}
		out[f[3]][f[1]] = append(out[f[3]][f[1]], point{at, v, f[2] == "1"})
	}
	return out, nil
}

// cutLast cuts at the last comma: a metric's name may have some.
func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ',')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
