package runtime

import "strings"

// Networks and other modes of a namespace, besides Joining another container's.
const (
	NetworkNone = "none" // a loopback interface only
	NetworkHost = "host"
	ModeHost    = "host" // the machine's namespace
	ModeNone    = "none" // IPC: of its own, without /dev/shm
	UserNSAuto  = "auto" // UserNS: a range of users of its own
	Unconfined  = "unconfined"
)

const joinPrefix = "container:"

// Joining is the mode that means the namespace of another container of this machine, which must be Running whenever this
// one starts (ErrBusy if it is not). A container that is started anew has new namespaces: who joined must be started again.
func Joining(id ID) string { return joinPrefix + string(id) }

// Joined is the container behind a mode, "" if it is another mode.
func Joined(mode string) ID {
	id, ok := strings.CutPrefix(mode, joinPrefix)
	if !ok {
		return ""
	}
	return ID(id)
}

// Joins lists the containers whose namespaces this one joins, each once; nil for most.
func (s *Spec) Joins() []ID {
	var out []ID
	modes := []string{s.Network}
	if s.Isolation != nil {
		modes = append(modes, s.Isolation.PID, s.Isolation.IPC)
	}
	for _, m := range modes {
		id := Joined(m)
		seen := id == ""
		for _, have := range out {
			seen = seen || have == id
		}
		if !seen {
			out = append(out, id)
		}
	}
	return out
}

// Isolation is how far a container is apart from the machine, where that is not as usual. What the machine cannot do is
// ErrDenied at Create, with the name of the setting.
type Isolation struct {
	Privileged    bool   `json:"privileged,omitempty"`    // all capabilities and devices, nothing filtered or hidden
	NewPrivileges bool   `json:"newPrivileges,omitempty"` // programs may gain rights by setuid and file capabilities
	Seccomp       string `json:"seccomp,omitempty"`       // "": the default profile; Unconfined; else a profile in Docker's JSON
	AppArmor      string `json:"appArmor,omitempty"`      // a profile that is loaded, or Unconfined; "": none

	PID    string `json:"pid,omitempty"`    // "": its own; ModeHost; Joining another
	IPC    string `json:"ipc,omitempty"`    // "": its own; ModeHost; ModeNone; Joining another
	UTS    string `json:"uts,omitempty"`    // "": its own; ModeHost
	Cgroup string `json:"cgroup,omitempty"` // "": its own; ModeHost
	UserNS string `json:"userNS,omitempty"` // "": the machine's users; UserNSAuto

	Groups      []string          `json:"groups,omitempty"` // numbers, or names of the image
	Devices     []Device          `json:"devices,omitempty"`
	DeviceRules []string          `json:"deviceRules,omitempty"` // "c 10:200 rwm"
	Sysctls     map[string]string `json:"sysctls,omitempty"`
	Ulimits     []Ulimit          `json:"ulimits,omitempty"`
	Umask       *uint32           `json:"umask,omitempty"`
}

// Device gives a device of the machine, or all in a directory.
type Device struct {
	Source string `json:"source"`
	Target string `json:"target"`
	Access string `json:"access"` // of r, w and m
}

// Ulimit is a limit of setrlimit(2); -1 is none.
type Ulimit struct {
	Name string `json:"name"` // Docker's: "nofile"
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Tuning is how the kernel weighs a container. A zero field is the kernel's default.
type Tuning struct {
	CgroupParent string   `json:"cgroupParent,omitempty"` // path from the root of the cgroups; "": the runtime's own
	CPUSet       string   `json:"cpuSet,omitempty"`       // "0-2,4"; others than the machine has are ErrDenied
	CPUShares    int64    `json:"cpuShares,omitempty"`
	CPUPeriod    int64    `json:"cpuPeriod,omitempty"`  // microseconds; 0: 100,000
	SwapBytes    int64    `json:"swapBytes,omitempty"`  // memory and swap together; -1: no limit; 0: no swap beyond a memory limit
	Swappiness   *int64   `json:"swappiness,omitempty"` // 0 to 100
	ShmBytes     int64    `json:"shmBytes,omitempty"`   // 0: 64 MiB
	OOMScore     int      `json:"oomScore,omitempty"`   // -1000 to 1000
	BlockIO      *BlockIO `json:"blockIO,omitempty"`
}

// BlockIO bounds and weighs input and output of block devices.
type BlockIO struct {
	Weight    uint16       `json:"weight,omitempty"` // 10 to 1000
	Weights   []DeviceRate `json:"weights,omitempty"`
	ReadBps   []DeviceRate `json:"readBps,omitempty"` // bytes a second
	WriteBps  []DeviceRate `json:"writeBps,omitempty"`
	ReadIOps  []DeviceRate `json:"readIOps,omitempty"` // operations a second
	WriteIOps []DeviceRate `json:"writeIOps,omitempty"`
}

// DeviceRate is for one block device of the machine.
type DeviceRate struct {
	Path string `json:"path"`
	Rate uint64 `json:"rate"`
}

// Naming is how a container is called and whom it asks for names.
type Naming struct {
	DNS        []string `json:"dns,omitempty"` // servers for what the node's own does not know
	DNSSearch  []string `json:"dnsSearch,omitempty"`
	DNSOptions []string `json:"dnsOptions,omitempty"`
	Hosts      []Host   `json:"hosts,omitempty"`
	Domain     string   `json:"domain,omitempty"`
	MAC        string   `json:"mac,omitempty"`
}

// Host is a line of /etc/hosts. Address may be HostGateway.
type Host struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// HostGateway stands for the machine's own address on the container's network.
const HostGateway = "host-gateway"
