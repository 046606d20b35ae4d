package stage

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
)

// Roles of processes, as argv[0]. The monitor and the init of a container never reach Go: see early.c.
const (
	RoleLauncher = C.SHOAL_LAUNCH
	RoleExec     = C.SHOAL_EXEC
	RoleMonitor  = C.SHOAL_MONITOR
	pathInit     = C.SHOAL_INIT
)

// WaitsAhead is argv[1] of a launcher that nobody waits for yet.
const WaitsAhead = "ahead"

// RoleOCI is the name of a process that is an OCI runtime for somebody else (package oci).
const RoleOCI = "shoal-oci"

// selfExe is this process's binary, also after its file was replaced or deleted.
const selfExe = "/proc/self/exe"

// AgentFD is the end of the socket to the agent that a launcher or exec helper finds open.
const AgentFD = 3

// ConsoleFD is the socket over which an exec helper hands the terminal of its process back, if there is one.
const ConsoleFD = 4

// The roles that change what belongs to a thread, its mount namespace or its death signal, need the main thread: /proc/self
// is that one's. Only before main is it certain that this is it.
func init() {
	if len(os.Args) > 0 && (os.Args[0] == RoleLauncher || len(os.Args) == 2 && os.Args[1] == "init") {
		goruntime.LockOSThread()
	}
}

// Main must be called first in main of a program that is to be started in one of the roles, or as libcontainer's init. If
// this process is that, it does the work and never returns; otherwise Main returns at once.
func Main() {
	if len(os.Args) == 0 {
		return
	}
	// First, because libcontainer gives its init the argv[0] of the process that starts it.
	if len(os.Args) == 2 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		initMain()
	}
	switch os.Args[0] {
	case RoleLauncher:
		launcherMain()
	case RoleExec:
		execMain()
	}
}

// initMain is the first process of a container, or an exec'd one, until it executes its command.
func initMain() {
	// The death signal belongs to the thread that sets it, and it is this thread that will execute the command. It cannot
	// be set earlier: each clone of libcontainer's stages clears it. An exec'd process must not have it: it is not the
	// monitor's child, and goes on when its helper is gone. Nor must what package oci starts, which outlives its creator.
	goruntime.LockOSThread()
	if os.Args[0] != RoleOCI && os.Getenv("_LIBCONTAINER_INITTYPE") == "standard" {
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			os.Exit(255)
		}
	}
	if os.Getenv(envGate) != "" {
		if err := awaitGate(); err != nil {
			noteGateFailure(err)
			os.Exit(255)
		}
	}
	libcontainer.Init()
}
