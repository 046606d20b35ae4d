package container

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"shoal/runtime/container/stage"
	"shoal/runtime/image"
)

const roleUnpacker = "shoal-unpack" // argv[1]

// selfExe is this process's binary, also after its file was replaced or deleted.
const selfExe = "/proc/self/exe"

// ReexecMain must be called first in main. If this process was started for a container or as the image unpacker, it does
// that work and never returns; otherwise it returns at once.
func ReexecMain() {
	stage.Main()
	if len(os.Args) > 1 && os.Args[1] == roleUnpacker {
		os.Exit(image.UnpackMain())
	}
}

// UnpackCommand is the argv with which this binary becomes the image store's unpacking helper. The path stays right when
// the binary's file is replaced.
func UnpackCommand() []string { return []string{selfExe, roleUnpacker} }

// program is what is started for a container: launcher, exec helper, and by their hand libcontainer's init and the monitor.
type program struct {
	path string   // leads to the binary as it was when we were started
	file *os.File // keeps path alive; nil when it is our own binary
	self stage.Binary
}

func openProgram(cfg Config) (*program, error) {
	self, selfFile := selfExe, (*os.File)(nil)
	if cfg.Self != "" {
		f, err := os.OpenFile(cfg.Self, unix.O_PATH, 0)
		if err != nil {
			return nil, fmt.Errorf("open the launcher's binary: %w", err)
		}
		self, selfFile = descriptorPath(f), f
	}
	p := &program{path: self, file: selfFile}
	var st unix.Stat_t
	if err := unix.Stat(self, &st); err != nil {
		return nil, fmt.Errorf("look at own binary: %w", err)
	}
	path, err := os.Readlink(self)
	if err != nil {
		return nil, err
	}
	p.self = stage.Binary{Path: path, Dev: st.Dev, Ino: st.Ino}
	if cfg.Stage == nil {
		return p, nil
	}
	f, err := unpackStage(cfg.Stage)
	if err != nil {
		cfg.Logger.Warn("containers start slower: the small program for that cannot be used", "err", err)
		return p, nil
	}
	if selfFile != nil {
		selfFile.Close()
	}
	p.path, p.file = descriptorPath(f), f
	return p, nil
}

// descriptorPath names an open file for a child. Through our own pid, not "self": the child resolves it between fork and
// exec, when its own low descriptors are being rearranged (golang.org/issue/61751).
func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// seals make a memory file what libcontainer takes for safe from containers: then it executes it without a mount or a copy.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// unpackStage puts the program into memory: no file that could be replaced, nothing to clear up. It lives as long as this
// process or a monitor that runs it. A monitor of an earlier agent may run the same one: then that is taken.
func unpackStage(compressed []byte) (*os.File, error) {
	zip, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("unpack it: %w", err)
	}
	fd, err := unix.MemfdCreate("shoal-stage", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 there was no word for what always was
		fd, err = unix.MemfdCreate("shoal-stage", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "shoal-stage")
	if _, err = io.Copy(f, zip); err == nil {
		err = f.Chmod(0o511)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("unpack it: %w", err)
	}
	return f, nil
}
