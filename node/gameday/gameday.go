// Package gameday breaks this machine on purpose, for a bounded time, and undoes it in any case: each fault is held by a
// small process of its own, which outlives the agent and the network, and a file says what is under way, so that whoever
// comes next can undo what is left. It knows no cluster: whom to hit, when, and whether that is wise is not its business.
//
// DESIGN.md says who undoes what when something of it dies.
package gameday

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Scope is what a fault hits.
type Scope string

// Scopes.
const (
	Task    Scope = "task"    // one container on the machine
	Agent   Scope = "agent"   // shoal's own process
	Network Scope = "network" // what nodes say to each other
	Machine Scope = "machine" // processor, memory, disk, power
)

// Fault is a kind of fault.
type Fault struct {
	Name  string `json:"name"`
	Scope Scope  `json:"scope"`
	What  string `json:"what"` // it does
	Undo  string `json:"undo"` // how it ends
	Needs string `json:"needs"`
	// Destructive ones are played only when named: others than shoal feel them, or they cannot be ended early.
	Destructive bool `json:"destructive,omitempty"`
	// ByName: safe, but not among those that are played when nobody names any.
	ByName bool `json:"byName,omitempty"`
	// Silences is true when the node cannot do its part for the cluster meanwhile, such as vote.
	Silences bool `json:"silences,omitempty"`
	// Least and Most bound how long it is held, unless somebody says otherwise. Both zero: it is over at once.
	Least time.Duration `json:"least"`
	Most  time.Duration `json:"most"`
}

// The faults by name.
const (
	KillTask    = "kill-task"
	KillMonitor = "kill-monitor"
	PauseTask   = "pause-task"
	KillAgent   = "kill-agent"
	FreezeAgent = "freeze-agent"
	Partition   = "partition"
	CutPair     = "cut-pair"
	OneWay      = "one-way"
	PacketLoss  = "packet-loss"
	CutServices = "cut-services"
	CPU         = "cpu"
	Memory      = "memory"
	BusyDisk    = "busy-disk"
	DiskFull    = "disk-full"
	PowerOff    = "power-off"
)

const s = time.Second

// Catalogue lists all kinds, safe ones first.
var Catalogue = []Fault{
	{Name: KillTask, Scope: Task, What: "kills the first process of a container", Undo: "nothing to undo: its restart policy starts it again", Needs: "a running task on the node"},
	{Name: KillMonitor, Scope: Task, What: "kills the process that watches over a container", Undo: "nothing to undo: the agent starts the task again", Needs: "a running task on the node"},
	{Name: PauseTask, Scope: Task, What: "freezes all processes of a container", Undo: "thawed", Needs: "a running task on the node; a freezer cgroup", Least: 3 * s, Most: 15 * s},
	{Name: KillAgent, Scope: Agent, What: "kills the agent (SIGKILL)", Undo: "systemd starts it again; where nothing does within 3 s, the helper does", Needs: "-", Silences: true},
	{Name: FreezeAgent, Scope: Agent, What: "stops the agent without ending it (SIGSTOP): its connections stay open", Undo: "SIGCONT", Needs: "-", Silences: true, Least: 2 * s, Most: 10 * s},
	{Name: Partition, Scope: Network, What: "drops what the node and all other nodes say to each other on shoal's port", Undo: "the rules are removed", Needs: "nftables in the kernel", Silences: true, Least: 5 * s, Most: 20 * s},
	{Name: CutPair, Scope: Network, What: "the same between the node and one other", Undo: "the rules are removed", Needs: "nftables in the kernel; three nodes", Silences: true, Least: 5 * s, Most: 20 * s},
	{Name: OneWay, Scope: Network, What: "the node does not hear the others, which hear it", Undo: "the rules are removed", Needs: "nftables in the kernel", Silences: true, Least: 5 * s, Most: 20 * s},
	{Name: PacketLoss, Scope: Network, What: "loses 10 to 30 % of what the node and the others say to each other", Undo: "the rules are removed", Needs: "nftables in the kernel", Least: 5 * s, Most: 20 * s},
	{Name: CPU, Scope: Machine, What: "keeps all processors busy", Undo: "the busy process is killed", Needs: "-", Least: 5 * s, Most: 20 * s},
	{Name: Memory, Scope: Machine, What: "takes three quarters of the memory that is available, or --size", Undo: "the process is killed; the kernel would kill it first", Needs: "-", Least: 5 * s, Most: 20 * s},
	{Name: BusyDisk, Scope: Machine, What: "writes and flushes without pause on the data directory's disk, in a file of at most 256 MiB, or --size", Undo: "the process is killed and the file removed", Needs: "1 GiB and a tenth of the disk free, or --size", Least: 5 * s, Most: 20 * s},
	{Name: CutServices, Scope: Network, What: "drops what the node's containers and those of other nodes say to each other", Undo: "the rules are removed", Needs: "nftables in the kernel", ByName: true, Least: 5 * s, Most: 20 * s},
	{Name: DiskFull, Scope: Machine, What: "fills the data directory's disk but for 1 MiB, or by --size: others who write there feel it, and the agent may end", Undo: "the file is removed", Needs: "--yes", Destructive: true, Silences: true, Least: 5 * s, Most: 15 * s},
	{Name: PowerOff, Scope: Machine, What: "resets the machine at once, as reboot -ff does: what was not flushed is lost, and everything on it restarts", Undo: "cannot be ended early: the machine comes back when it has booted", Needs: "--yes; a machine that boots by itself, with shoal as a service", Destructive: true, Silences: true, Least: 120 * s, Most: 120 * s},
}

// MaxHold bounds how long a fault may be held.
const MaxHold = 10 * time.Minute

// Find gives a kind of fault by its name.
func Find(name string) (Fault, error) {
	if i := slices.IndexFunc(Catalogue, func(f Fault) bool { return f.Name == name }); i >= 0 {
		return Catalogue[i], nil
	}
	return Fault{}, fmt.Errorf("fault %.40q: there is none of that name; there are %s", name, strings.Join(Names(func(Fault) bool { return true }), ", "))
}

// Names lists the kinds for which keep is true, in the order of the catalogue.
func Names(keep func(Fault) bool) []string {
	var out []string
	for _, f := range Catalogue {
		if keep(f) {
			out = append(out, f.Name)
		}
	}
	return out
}

// Safe tells whether a fault is played when nobody names any.
func Safe(f Fault) bool { return !f.Destructive && !f.ByName }

// Policy is what an agent allows on its machine.
type Policy string

// Policies.
const (
	Allow Policy = "allow" // whatever an admin asks for
	Mild  Policy = "safe"  // no destructive fault
	Never Policy = "never"
)
