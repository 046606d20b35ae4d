package machines

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Ledger is what of our kinds of things is on the host: to be the same after a test as before it.
type Ledger map[string]bool

// TakeLedger counts processes of shoal, mounts, links, rules, cgroups and loop devices of the caller's namespaces.
func TakeLedger() Ledger {
	l := Ledger{}
	procs, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(b), "shoal") {
			l["process "+filepath.Base(filepath.Dir(p))+" "+strings.TrimSpace(string(b))] = true
		}
	}
	l.lines("mount", "cat", "/proc/self/mounts")
	l.lines("netns", "ip", "netns", "list")
	l.lines("link", "sh", "-c", "ip -o link | cut -d: -f2")
	l.lines("rule", "nft", "list", "tables")
	l.lines("loop", "sh", "-c", "losetup -ln -O NAME,BACK-FILE 2>/dev/null || true")
	_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), "shoal") {
			l["cgroup "+p] = true
			return filepath.SkipDir
		}
		return nil
	})
	return l
}

func (l Ledger) lines(kind string, command ...string) {
	out, err := exec.Command(command[0], command[1:]...).Output()
	if err != nil {
		return // the tool is missing: nothing of that kind can be ours either
	}
	for line := range strings.Lines(string(out)) {
		l[kind+" "+strings.TrimSpace(line)] = true
	}
}

// Check compares the host with what it was, and waits a little for the kernel to finish what was let go.
func (l Ledger) Check() error {
	var left []string
	err := await(5*time.Second, "", func() bool {
		left = left[:0]
		for thing := range maps.Keys(TakeLedger()) {
			if !l[thing] {
				left = append(left, thing)
			}
		}
		return len(left) == 0
	})
	if err == nil {
		return nil
	}
	slices.Sort(left)
	return fmt.Errorf("left behind on the host:\n  %s", strings.Join(left, "\n  "))
}
