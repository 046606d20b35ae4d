package stage

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Step is a moment between two changes of the machine, at which a crash must leave nothing that is not cleared up. Each
// has a name so that a test can have agent, launcher or init killed exactly there (TestKilledAtEachStep), and that test
// fails for a name that is not in Steps or never reached.
type Step string

// Steps are all moments, in the order in which a container's life passes them.
var Steps = []Step{
	"create held", "create directory", "create sources", "create reserved", "create etc", "create recorded",
	"start cleared", "start leased", "start etc", "start launcher", "start job sent",
	"launch job", "launch locked", "launch exit file", "launch namespace", "launch root", "launch fill copied", "launch fill complete", "launch fill moved", "launch mounts", "launch config",
	"launch announced", "launch state", "launch cgroup", "launch gate", "launch configuration sent", "launch hooks", "launch limits",
	"launch ready", "launch saved", "launch parked",
	"start attached", "start moved", "launch word", "launch quota", "launch start file", "launch fifo", "launch command", "start running",
	"exec helper", "exec job sent", "exec started", "exec running", "exec ended",
	"stop signalled", "finish seen", "finish recorded",
	"remove record", "remove ended", "remove cleared", "remove detached", "remove volumes", "remove image", "remove directory",
}

// crashEnv tells a helper process of crashAt.
const crashEnv = "SHOAL_TEST_CRASH"

// crashAt is nothing but in a test: the step, a colon, and who is to be killed: agent, launcher or init.
var crashAt string

// CrashAt is for tests alone. The helper processes that this one starts hear of it with CrashEnv.
func CrashAt(where string) { crashAt = where }

// CrashEnv is what a helper process is to have in its environment; nil but in a test.
func CrashEnv() []string {
	if crashAt == "" {
		return nil
	}
	return []string{crashEnv + "=" + crashAt}
}

// Doomed are processes by what a test calls them: agent, launcher, init. 0: not there.
type Doomed struct{ Agent, Launcher, Init int }

// Reach passes a step.
func Reach(s Step, who Doomed) {
	if crashAt == "" {
		return
	}
	where, whom, _ := strings.Cut(crashAt, ":")
	if Step(where) != s {
		return
	}
	pid := map[string]int{"agent": who.Agent, "launcher": who.Launcher, "init": who.Init}[whom]
	if pid <= 0 {
		return
	}
	crashAt = "" // once
	os.Stderr.WriteString("reached\n")
	_ = unix.Kill(pid, unix.SIGKILL)
	if pid == os.Getpid() {
		select {}
	}
}

// reach passes a step of the launcher.
func (l *launching) reach(s Step) {
	if crashAt == "" {
		return
	}
	pid := l.initPID
	if pid == 0 && l.ahead != nil {
		pid = l.ahead.pid
	}
	Reach(s, Doomed{Agent: os.Getppid(), Launcher: os.Getpid(), Init: pid})
}
