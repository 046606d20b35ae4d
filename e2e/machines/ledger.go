package machines

import (
	"fmt"
	"maps"
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
	spaces map[string]tenancy // the namespaces that were made and not let go, as /proc/PID/ns names them
}

// tenancy is how long a namespace was ours. Once nothing lives in it the kernel gives its name to somebody else at once,
// such as to a container of a machine that goes on; the zero value: it is still ours.
type tenancy struct {
	until uint64 // in the kernel's ticks since the start; who began later is a stranger
	// others lived elsewhere when it ended: where they are seen under this name they are strangers too, for a process may
	// take a namespace long after it began.
	others map[being]bool
}

// being is a process that cannot be mistaken for a later one with the same number.
type being struct{ pid, begun string }

// goneWait is how long the kernel may take to end what was killed, or to make a namespace: seconds on a busy machine, for it
// waits for disks and for all processors.
const goneWait = 30 * time.Second

// kinds of namespaces whose processes must not outlive the Net.
var kinds = []string{"net", "mnt", "pid"}

func newLedger() *ledger {
	l := &ledger{before: map[string]bool{}, spaces: map[string]tenancy{}}
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
		n.ledger.spaces[s] = tenancy{}
	}
}

// outsiders lists the processes that live in none of the namespaces.
func outsiders(spaces []string) map[being]bool {
	out := map[being]bool{}
	for _, pid := range pids() {
		n, _ := strconv.Atoi(pid)
		inside := slices.ContainsFunc(kinds, func(kind string) bool { return slices.Contains(spaces, namespace(pid, kind)) })
		if start := begun(n); start != "" && !inside {
			out[being{pid, start}] = true
		}
	}
	return out
}

// letGo waits until nothing lives in the namespaces any more, and forgets them. Others are the outsiders from before what
// lives there was killed. If something does live on, the namespaces stay for Gone to tell.
func (n *Net) letGo(spaces []string, others map[being]bool) {
	l := &ledger{spaces: map[string]tenancy{}}
	t := tenancy{until: ticks(), others: others}
	maps.Copy(t.others, outsiders(spaces)) // who began while the others died
	for _, s := range spaces {
		l.spaces[s] = t
	}
	stuck := await(goneWait, "", func() bool { return len(l.processes()) == 0 })
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range spaces {
		if stuck != nil {
			n.ledger.spaces[s] = t
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
		b := being{pid, begun(n)}
		start, err := strconv.ParseUint(b.begun, 10, 64)
		if err != nil {
			continue // it is gone
		}
		for _, k := range kinds {
			t, ours := l.spaces[namespace(pid, k)]
			if ours && (t.until == 0 || start <= t.until) && !t.others[b] {
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
