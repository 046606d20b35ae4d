// Package machines makes machines out of namespaces on this one, joins them by a switch, and breaks both on purpose:
// power cuts, partitions, loss, killed and frozen agents. It knows how to start the shipped binary on them and to ask
// it as a person would; what must hold is its users' business. It touches nothing of the host that it did not make.
package machines

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options of a Net.
type Options struct {
	// Binary is the shoal binary to run; required.
	Binary string
	// Dir is where the machines' disks are; "": a new temporary directory, removed by Close. It must be able to carry
	// overlay file systems.
	Dir string
	// LogLevel of the agents; "": info.
	LogLevel string
	// Keep lets the machines outlive this process if it ends without Close; see Save and Open.
	Keep bool
	// Kind of the machines; "": what SHOAL_MACHINES says, and namespaces if it says nothing.
	Kind string
}

// Kinds of machines.
const (
	Namespaces = "namespaces" // this host's kernel, in no time
	VMs        = "vm"         // a kernel each, under qemu
)

// Net is a switch with machines on it. Its methods are safe for concurrent use.
type Net struct {
	opts   Options
	id     string // tells this run's things from others'
	dir    string
	ownDir bool
	holder *process // keeps the switch's network namespace
	driver driver

	mu       sync.Mutex
	ledger   *ledger
	machines []*Machine
	rules    []string // of the switch, see faults.go
	troubles int      // made so far, see cuts.go
}

// New makes a switch in a network namespace of its own.
func New(o Options) (*Net, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("machines out of namespaces take root")
	}
	for _, tool := range []string{"ip", "nft", "unshare", "nsenter", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is missing: install iproute2, nftables and util-linux", tool)
		}
	}
	if o.Kind == "" {
		o.Kind = cmp.Or(os.Getenv("SHOAL_MACHINES"), Namespaces)
	}
	if o.Kind != Namespaces && o.Kind != VMs {
		return nil, fmt.Errorf("there are no machines of kind %q: SHOAL_MACHINES may be %s or %s", o.Kind, Namespaces, VMs)
	}
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	n := &Net{opts: o, id: hex.EncodeToString(b), dir: o.Dir, ledger: newLedger(), driver: namespaces{}}
	if n.dir == "" {
		dir, err := os.MkdirTemp("", "shoal-machines-")
		if err != nil {
			return nil, err
		}
		n.dir, n.ownDir = dir, true
	}
	holder, err := startApart(exec.Command("unshare", "--net", "--kill-child", "--fork", "sleep", "infinity"), o.Keep)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the switch: %w", err), n.removeDir())
	}
	n.holder = holder
	err = n.setUpSwitch()
	if err == nil && n.opts.Kind == VMs {
		n.driver, err = newVirtual(n)
	}
	if err != nil {
		_ = n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Net) setUpSwitch() error {
	if err := await(goneWait, "the switch's namespace", func() bool { return differentNet(n.holder.PID) }); err != nil {
		return err
	}
	n.note(n.holder.PID)
	return n.inSwitch("ip link add sw type bridge forward_delay 0 && ip link set sw up && ip link set lo up")
}

func (n *Net) inSwitch(script string) error {
	if !n.holder.alive() { // its pid may be another's by now
		return errors.New("the switch is gone")
	}
	return run("nsenter", "--net=/proc/"+strconv.Itoa(n.holder.PID)+"/ns/net", "sh", "-ec", script)
}

// Add makes a machine that is off.
func (n *Net) Add(o MachineOptions) (*Machine, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.machine(len(n.machines)+1, o)
	if err := n.driver.makeDisk(m); err != nil {
		return nil, err
	}
	n.machines = append(n.machines, m)
	return m, nil
}

// machine names all that belongs to the k-th machine.
func (n *Net) machine(k int, o MachineOptions) *Machine {
	name := fmt.Sprintf("m%d", k)
	return &Machine{
		net: n, num: k, Options: o, Name: name, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(k)}),
		dir: filepath.Join(n.dir, name), port: fmt.Sprintf("p%d", k),
	}
}

// Machines lists all, in the order in which they were added.
func (n *Net) Machines() []*Machine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Machine(nil), n.machines...)
}

// Close switches all off and removes everything that the Net made.
func (n *Net) Close() error {
	all := n.Machines()
	errs := make([]error, len(all))
	var wg sync.WaitGroup // each of them may wait for the kernel
	for i, m := range all {
		wg.Go(func() { errs[i] = errors.Join(m.PowerOff(), n.driver.removeDisk(m)) })
	}
	wg.Wait()
	spaces := ownSpaces(n.holder.PID)
	others := outsiders(spaces)
	errs = append(errs, n.holder.kill(), n.removeDir())
	n.letGo(spaces, others)
	return errors.Join(errs...)
}

// removeDir removes what is ours to remove.
func (n *Net) removeDir() error {
	if !n.ownDir {
		return nil
	}
	return os.RemoveAll(n.dir)
}

// Binary is the shoal that the machines run.
func (n *Net) Binary() string { return n.opts.Binary }

// Dir is where the machines' disks and the agents' logs are.
func (n *Net) Dir() string { return n.dir }

// run runs a command and gives its output in the error.
func run(args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// await polls until cond holds.
func await(limit time.Duration, what string, cond func() bool) error {
	for end := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s", limit, what)
		}
	}
	return nil
}
