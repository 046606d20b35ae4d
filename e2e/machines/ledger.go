package machines

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ledger counts what of our kinds of things the host has. Others work on the same host, so what carries a mark of its
// own (processes, mounts, cgroups) is ours by that mark, and only the rest is compared with what was there before.
type ledger struct {
	before map[string]bool
	// spaces are the namespaces that were made and not let go, as /proc/PID/ns names them, and until when (in the kernel's
	// ticks since the start; 0: still) they were ours: afterwards the kernel may give the name to somebody else.
	spaces map[string]uint64
}

// goneWait is how long the kernel may take to end what was killed: seconds on a busy machine, for it waits for disks and for
// all processors.
const goneWait = 30 * time.Second

// kinds of namespaces whose processes must not outlive the Net.
var kinds = []string{"net", "mnt", "pid"}

func newLedger() *ledger {
	l := &ledger{before: map[string]bool{}, spaces: map[string]uint64{}}
	for _, thing := range unmarked() {
		l.before[thing] = true
	}
	return l
}

// ownSpaces are the namespaces of a process that we started, but for those that it shares with us.
func ownSpaces(pid int) []string {
	var out []string
	for _, k := range kinds {
		if theirs := namespace(strconv.Itoa(pid), k); theirs != "" && theirs != namespace("self", k) {
			out = append(out, theirs)
		}
	}
	return out
}

// note remembers the namespaces of a process that we started.
func (n *Net) note(pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range ownSpaces(pid) {
		n.ledger.spaces[s] = 0
	}
}

// letGo waits until nothing lives in the namespaces any more, and forgets them: the kernel gives their names to others.
// If something does live on, they stay for Gone to tell.
func (n *Net) letGo(spaces []string) {
	l := &ledger{spaces: map[string]uint64{}}
	until := ticks()
	for _, s := range spaces {
		l.spaces[s] = until
	}
	stuck := await(goneWait, "", func() bool { return len(l.processes()) == 0 })
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range spaces {
		if stuck != nil {
			n.ledger.spaces[s] = until
		} else {
			delete(n.ledger.spaces, s)
		}
	}
}

func namespace(pid, kind string) string {
	s, err := os.Readlink("/proc/" + pid + "/ns/" + kind)
	if err != nil {
		return ""
	}
	return s
}

// Gone says, after Close, what is left of the Net on the host: processes, mounts, links, rules, cgroups, loop devices,
// named namespaces. It waits a little for the kernel to finish what was let go. Nil: nothing.
func (n *Net) Gone() error {
	var left []string
	err := await(goneWait, "", func() bool {
		left = n.left()
		return len(left) == 0
	})
	if err == nil {
		return nil
	}
	return fmt.Errorf("left behind on the host:\n  %s", strings.Join(left, "\n  "))
}

func (n *Net) left() []string {
	out := n.ledger.processes()
	for _, thing := range unmarked() {
		if !n.ledger.before[thing] {
			out = append(out, thing)
		}
	}
	mark := "shoal-" + n.id
	for _, thing := range slices.Concat(lines("mount", "cat", "/proc/self/mounts"), lines("loop device", "losetup", "-ln", "-O", "NAME,BACK-FILE")) {
		if strings.Contains(thing, n.dir+"/") || strings.Contains(thing, mark) {
			out = append(out, thing)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		found, _ := filepath.Glob(pattern + mark + "-*") // the pattern is right
		for _, dir := range found {
			out = append(out, "cgroup "+dir)
		}
	}
	slices.Sort(out)
	return out
}

// processes lists those that live in a namespace of the Net. The dead that only wait to be reaped do not.
func (l *ledger) processes() []string {
	var out []string
	for _, pid := range pids() {
		n, _ := strconv.Atoi(pid)
		start, err := strconv.ParseUint(begun(n), 10, 64)
		if err != nil {
			continue // it is gone
		}
		for _, k := range kinds {
			if until, ours := l.spaces[namespace(pid, k)]; ours && (until == 0 || start <= until) {
				comm, _ := os.ReadFile("/proc/" + pid + "/comm") // for people only
				out = append(out, "process "+pid+" "+strings.TrimSpace(string(comm)))
				break
			}
		}
	}
	return out
}

// ticks is the time since the kernel's start in the unit of a process's start time, a hundredth of a second on every
// architecture; 0 if it cannot be told.
func ticks() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return uint64(t.Nano() / int64(10*time.Millisecond))
}

// pids lists all processes that we can see.
func pids() []string {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for i, d := range dirs {
		dirs[i] = filepath.Base(d)
	}
	return dirs
}

// unmarked lists things of the host's own namespaces that do not say whose they are.
func unmarked() []string {
	links, _ := filepath.Glob("/sys/class/net/*") // the pattern is right
	out := slices.Concat(links, lines("rules", "nft", "list", "tables"), lines("named namespace", "ip", "netns", "list"))
	return out
}

func lines(kind string, command ...string) []string {
	b, err := exec.Command(command[0], command[1:]...).Output()
	if err != nil {
		return nil // the tool is missing: nothing of that kind can be ours either
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		out = append(out, kind+" "+strings.TrimSpace(line))
	}
	return out
}
