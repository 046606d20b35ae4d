// Package e2e is the proof: the shipped binary on real kernels, driven as a person would drive it, on machines that are
// namespaces. It knows what shoal promises; how the promises are kept is none of its business.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"shoal/e2e/machines"
)

// binary is the shoal under test.
var binary string

// TestMain finds the binary, or builds it when nobody did.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // all tests skip
	}
	if os.Getenv("SHOAL_MACHINES") == machines.VMs {
		patience *= 6 // emulated processors
	}
	dir, err := os.MkdirTemp("", "shoal-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary = os.Getenv("SHOAL_BINARY"); binary == "" {
		binary = filepath.Join(dir, "shoal")
		if err := build(binary, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// build makes the static binary with a version of its own, with the flags of the Makefile so that its cache helps.
func build(path, version string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "netgo osusergo seccomp", "-ldflags", "-s -w -extldflags -static -X main.version="+version, "-o", path, "shoal/cmd/shoal")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the binary under test: %w\n%s", err, out)
	}
	return nil
}
