package container

/*
#cgo CFLAGS: -Wall -Wextra -O2
#include "early.h"
*/
import "C"

import (
	"os"
	goruntime "runtime"

	_ "github.com/opencontainers/cgroups/devices" // without it libcontainer cannot set device rules
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces in C, before the Go runtime has threads
	"golang.org/x/sys/unix"

	"shoal/runtime/image"
)

// Roles that this binary takes in processes of its own, as argv[0] (the unpacker: argv[1]). The monitor and the init of a
// container never reach Go: see early.c.
const (
	roleLauncher = "shoal-launch"
	roleUnpacker = "shoal-unpack"
	roleMonitor  = C.SHOAL_MONITOR
	pathInit     = C.SHOAL_INIT
)

// ReexecMain must be called first in main. If this process was started as a launcher, as libcontainer's init or as the
// image unpacker, it does that work and never returns; otherwise it returns at once.
func ReexecMain() {
	if len(os.Args) == 0 {
		return
	}
	// First, because libcontainer gives its init the argv[0] of the process that starts it.
	if len(os.Args) == 2 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		initMain()
	}
	if os.Args[0] == roleLauncher {
		launcherMain()
	}
	if len(os.Args) > 1 && os.Args[1] == roleUnpacker {
		os.Exit(image.UnpackMain())
	}
}

// UnpackCommand is the argv with which this binary becomes the image store's unpacking helper. The path stays right when
// the binary's file is replaced.
func UnpackCommand() []string { return []string{"/proc/self/exe", roleUnpacker} }

// initMain is the first process of a container, or an exec'd one, until it executes its command.
func initMain() {
	// The death signal belongs to the thread that sets it, and it is this thread that will execute the command. It cannot
	// be set earlier: each clone of libcontainer's stages clears it. A process exec'd by Exec is the agent's child and
	// must not have it, as threads of the agent come and go.
	goruntime.LockOSThread()
	if os.Getenv("_LIBCONTAINER_INITTYPE") == "standard" {
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			os.Exit(255)
		}
	}
	libcontainer.Init()
}
