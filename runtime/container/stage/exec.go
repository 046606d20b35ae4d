package stage

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	goruntime "runtime"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// execMain is the exec helper: it starts one further process in a container, waits for it and tells its end. If the agent
// goes away, the process goes on.
func execMain() {
	goruntime.LockOSThread() // libcontainer forks, and its child waits for messages that this goroutine sends
	unix.CloseOnExec(AgentFD)
	sock := os.NewFile(AgentFD, "agent")
	enc, dec := json.NewEncoder(sock), json.NewDecoder(sock)
	var job Exec
	if err := dec.Decode(&job); err != nil {
		os.Exit(1) // the agent is gone, and nothing was made
	}
	proc, err := job.start()
	if err != nil {
		_ = enc.Encode(Reply{Refusal: refusalOf(err, err.Error())})
		os.Exit(1)
	}
	pid, _ := proc.Pid()
	_ = enc.Encode(Reply{PID: pid})
	go func() {
		var kill Word
		if dec.Decode(&kill) == nil {
			_ = proc.Signal(unix.SIGKILL)
		}
	}()
	state, err := proc.Wait()
	if state == nil {
		_ = enc.Encode(Reply{Refusal: refusalOf(err, fmt.Sprintf("wait for it: %v", err))})
		os.Exit(1)
	}
	code := exitCode(state.Sys().(syscall.WaitStatus))
	_ = enc.Encode(Reply{Exit: &code})
	os.Exit(0)
}

func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// start gives the streams over to the process: afterwards it alone has them, and its end is theirs.
func (e Exec) start() (*libcontainer.Process, error) {
	proc, err := e.process()
	if err != nil {
		return nil, err
	}
	if e.TTY {
		unix.CloseOnExec(ConsoleFD)
		proc.ConsoleSocket = os.NewFile(ConsoleFD, "console")
		defer proc.ConsoleSocket.Close()
	} else {
		proc.Stdin, proc.Stdout, proc.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	cont, err := libcontainer.Load(e.StateDir, string(e.ID))
	if err != nil {
		return nil, err
	}
	if err := cont.Start(proc); err != nil {
		return nil, startFailure(e.Args[0], err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return proc, err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return proc, err
		}
	}
	return proc, nil
}

// process says who runs what and where; the container's root is seen through its first process.
func (e Exec) process() (*libcontainer.Process, error) {
	rec := e.Record
	who, err := lookUser(fmt.Sprintf("/proc/%d/root", e.InitPID), firstOf(e.User, rec.Spec.User, rec.Config.User), isolationOf(&rec.Spec).Groups)
	if err != nil {
		return nil, err
	}
	base := []string{defaultPath, "HOSTNAME=" + Hostname(rec.Spec)}
	if e.TTY {
		base = append(base, "TERM=xterm")
	}
	spec := rec.Spec
	if e.Privileged {
		spec.CapAdd, spec.CapDrop = []string{"ALL"}, nil
	}
	caps, err := RecordCapabilities(&spec)
	if err != nil {
		return nil, err
	}
	return &libcontainer.Process{
		Args: e.Args, Env: withHome(Environ(base, rec.Config.Env, rec.Spec.Env, e.Env), who),
		Cwd: path.Clean("/" + firstOf(e.WorkingDir, rec.Spec.WorkingDir, rec.Config.WorkingDir)),
		UID: who.UID, GID: who.GID, AdditionalGroups: who.Groups, Capabilities: processCapabilities(caps, who.UID),
	}, nil
}

// firstOf is the first that is not empty.
func firstOf(names ...string) string {
	for _, n := range names {
		if n != "" {
			return n
		}
	}
	return ""
}
