package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const envGate = "SHOAL_GATE"

// awaitGate is the waiting init's side: it returns when there is a container, with its descriptors in place and in a copy
// of the launcher's mount namespace. On the main thread, which is the only one that this is about: it executes the command.
func awaitGate() error {
	gate := gateFD
	buf, oob := make([]byte, practiceMost), make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := unix.Recvmsg(gate, buf, oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR || err == nil && n > 0 && oobn == 0 {
		if err == nil { // what comes without descriptors is for practice
			var c initConfig
			_ = json.Unmarshal(buf[:n], &c)
		}
		n, oobn, _, _, err = unix.Recvmsg(gate, buf, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return io.EOF // nobody needs us
	}
	unix.Close(gate)
	var m gateMessage
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		return err
	}
	control, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(control) != 1 {
		return fmt.Errorf("%d control messages came through the gate: %w", len(control), errors.Join(err, io.ErrUnexpectedEOF))
	}
	fds, err := unix.ParseUnixRights(&control[0])
	if err != nil {
		return err
	}
	want := 5
	if m.Console {
		want = 3
	}
	if len(fds) != want {
		return fmt.Errorf("%d descriptors came through the gate, want %d", len(fds), want)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(fds[0], unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	unix.Close(fds[0])
	flags := unix.CLONE_NEWNS
	if m.CgroupNamespace {
		flags |= unix.CLONE_NEWCGROUP
	}
	if err := unix.Unshare(flags); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	os.Setenv("_LIBCONTAINER_FIFOFD", strconv.Itoa(fds[1]))
	if m.Console {
		os.Setenv("_LIBCONTAINER_CONSOLE", strconv.Itoa(fds[2]))
		return nil
	}
	for i, fd := range fds[2:] {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
		unix.Close(fd)
	}
	return nil
}

// noteGateFailure tells the launcher why the init ends, in the way in which libcontainer's init does.
func noteGateFailure(err error) {
	text, _ := json.Marshal(map[string]any{"type": procError, "flags": 0, "arg": map[string]string{"message": err.Error()}})
	_, _ = syscall.Write(syncPipeFD, text)
}
