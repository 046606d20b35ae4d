package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	goruntime "runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"shoal/runtime/step"
)

// childReport is the helper's one line on stdout.
type childReport struct {
	extracted
	Err     string        `json:"err,omitempty"`
	Invalid bool          `json:"invalid,omitempty"` // Err is the archive's fault
	Errno   syscall.Errno `json:"errno,omitempty"`   // of Err, if it has one: a full disk must stay recognisable
}

// Variables so that a test needs no 64 MiB.
var (
	// maxChildReport bounds what is read from a helper, in bytes: it may have been taken over by what it unpacks.
	maxChildReport int64 = 64 << 20
	// maxImplicitBytes bounds the directories that one layer uses and does not describe, in bytes of JSON, so that a report
	// has room for them and for its other words. A million fit.
	maxImplicitBytes int64 = 63 << 20
)

// UnpackMain is the body of the helper process named in [Config].UnpackCommand: it unpacks the layer on stdin into the
// directory named by the last argument, to which it confines itself by chroot, and reports on stdout. It returns the
// process's exit code.
func UnpackMain() int {
	report := childReport{}
	got, err := unpackConfined(os.Args[len(os.Args)-1])
	if err != nil {
		report.Err, report.Invalid = err.Error(), !isMachineError(err)
		errors.As(err, &report.Errno)
	}
	report.extracted = got
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func unpackConfined(dir string) (extracted, error) {
	// From here on the kernel, not the path arithmetic of a library, keeps hostile names inside.
	if err := unix.Chroot(dir); err != nil {
		return extracted{}, fmt.Errorf("%w: chroot %s: %w", errChild, dir, err)
	}
	if err := os.Chdir("/"); err != nil {
		return extracted{}, fmt.Errorf("%w: %w", errChild, err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return extracted{}, fmt.Errorf("%w: %w", errChild, err)
	}
	unix.Umask(0)
	return extractLayer(context.Background(), os.Stdin, "/", true)
}

// extractInChild is extractLayer in the helper process, with namespaces of its own: no network, no mounts, and it dies
// with us.
func (s *Store) extractInChild(ctx context.Context, blob *os.File, root string) (extracted, error) {
	argv := append(append([]string{}, s.unpackBy...), root)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Env = blob, []string{}
	stderr := &tail{limit: 4 << 10}
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL, // a store opened after our death must not share tmp/ with it
	}
	goruntime.LockOSThread() // the signal comes when the thread ends that forked, not the process
	defer goruntime.UnlockOSThread()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return extracted{}, fmt.Errorf("%w: %w", errChild, err)
	}
	if err := cmd.Start(); err != nil {
		return extracted{}, fmt.Errorf("%w: %w", errChild, err)
	}
	_ = step.Reach("unpack child started")
	raw, readErr := io.ReadAll(io.LimitReader(stdout, maxChildReport+1))
	tooLong := int64(len(raw)) > maxChildReport
	if tooLong || readErr != nil {
		_ = cmd.Process.Kill() // nobody reads on, so that it would wait for ever, and we for it
	}
	if err := cmd.Wait(); tooLong {
		return extracted{}, invalidf("its unpacking reports more than %d bytes", maxChildReport)
	} else if err != nil {
		return extracted{}, fmt.Errorf("%w %s: %w: %s", errChild, argv[0], err, strings.TrimSpace(stderr.String()))
	}
	if readErr != nil {
		return extracted{}, fmt.Errorf("%w %s: %w", errChild, argv[0], readErr)
	}
	var report childReport
	if err := json.Unmarshal(raw, &report); err != nil {
		return extracted{}, fmt.Errorf("%w %s: report: %w", errChild, argv[0], err)
	}
	switch {
	case report.Err == "":
		return report.extracted, nil
	case report.Invalid:
		return extracted{}, invalidf("%s", report.Err)
	case report.Errno != 0:
		return extracted{}, &kindError{report.Errno, errors.New(report.Err)}
	}
	return extracted{}, fmt.Errorf("%w: %s", errChild, report.Err)
}

// tail keeps the last bytes written to it.
type tail struct {
	b     []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > t.limit {
		t.b = append([]byte{}, t.b[len(t.b)-t.limit:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
