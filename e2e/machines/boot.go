package machines

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// kernelBootID is where programs read which run of the kernel this is. All namespaces of one kernel share it, so without
// one of its own a machine that was switched on again would look to its programs as if it had never been off.
const kernelBootID = "/proc/sys/kernel/random/boot_id"

// freshBoot gives the machine, whose first process runs, a boot id that no boot had before. It is a file mounted over the
// kernel's in the machine's own mount namespace, so it goes with it.
func (m *Machine) freshBoot() error {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	file := filepath.Join(m.dir, "boot_id")
	if err := os.WriteFile(file, fmt.Appendf(nil, "%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), 0o444); err != nil {
		return err
	}
	// A user namespace may mount a /proc only where the machine has one that nothing covers: that is the second one.
	whole := filepath.Join(m.dir, "proc")
	if err := os.MkdirAll(whole, 0o755); err != nil {
		return err
	}
	pid := strconv.Itoa(m.pid)
	if err := run("nsenter", "-t", pid, "-m", "-p", "--", "mount", "-t", "proc", "proc", whole); err != nil {
		return err
	}
	return run("nsenter", "--mount=/proc/"+pid+"/ns/mnt", "mount", "--bind", file, kernelBootID)
}
