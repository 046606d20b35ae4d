package job

import "slices"

// Isolation is how far a service's containers are apart from the node, where that is not what every container gets. The
// zero value is what every container gets; Service.Isolation is nil then.
type Isolation struct {
	// Privileged: all capabilities, all devices, no filter of system calls, nothing of /proc and /sys hidden.
	Privileged bool `json:"privileged,omitempty"`
	// NewPrivileges lets programs gain rights by setuid and file capabilities, as sudo needs it.
	NewPrivileges bool `json:"newPrivileges,omitempty"`
	// Seccomp is "" for the default profile, SeccompOff, or a profile in Docker's JSON, at most MaxSeccompBytes.
	Seccomp string `json:"seccomp,omitempty"`
	// AppArmor names a profile that is loaded on the node, or is "unconfined"; "": none.
	AppArmor string `json:"appArmor,omitempty"`

	// Namespace modes. "": one of its own. PID and IPC: "host" or "service:NAME" (of the service whose network is joined);
	// IPC also "none" (no /dev/shm); UTS and Cgroup: "host".
	PID    string `json:"pid,omitempty"`
	IPC    string `json:"ipc,omitempty"`
	UTS    string `json:"uts,omitempty"`
	Cgroup string `json:"cgroup,omitempty"`
	// UserNS is "" for the node's users, or UserNSAuto for a range of users of each container's own.
	UserNS string `json:"userNS,omitempty"`

	Groups      []string          `json:"groups,omitempty"`      // further groups of the first process, by number or the image's names
	Devices     []Device          `json:"devices,omitempty"`     // sorted by target, targets unique
	DeviceRules []string          `json:"deviceRules,omitempty"` // as "c 10:200 rwm"
	Sysctls     map[string]string `json:"sysctls,omitempty"`
	Ulimits     []Ulimit          `json:"ulimits,omitempty"` // sorted by name, names unique
	Umask       *uint32           `json:"umask,omitempty"`
}

// Words of an Isolation.
const (
	SeccompOff  = "unconfined"
	ModeHost    = "host"
	ModeNone    = "none"
	UserNSAuto  = "auto"
	AppArmorOff = "unconfined"
)

// Device gives a device of the node to a container. A source that is a directory stands for all devices in it.
type Device struct {
	Source string `json:"source"` // absolute path on the node
	Target string `json:"target"` // absolute path in the container
	Access string `json:"access"` // of r, w and m
}

// Ulimit is one resource limit of setrlimit(2); -1 is none.
type Ulimit struct {
	Name string `json:"name"` // as Docker's: "nofile", "core"
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Tuning is how the kernel weighs a service's containers, where that is not the default. Service.Tuning is nil when
// nothing of it is set; a zero field is the kernel's default.
type Tuning struct {
	CgroupParent string `json:"cgroupParent,omitempty"` // below which the container's cgroup is, from the root; "": shoal's own
	CPUSet       string `json:"cpuSet,omitempty"`       // processors, as "0-2,4"
	CPUShares    int64  `json:"cpuShares,omitempty"`    // weight; 1024 is usual
	CPUPeriod    int64  `json:"cpuPeriod,omitempty"`    // microseconds in which Limits.NanoCPUs is counted; 0: 100,000
	// SwapBytes is memory and swap together, -1 without limit. 0: no swap beyond a memory limit.
	SwapBytes  int64    `json:"swapBytes,omitempty"`
	Swappiness *int64   `json:"swappiness,omitempty"` // 0 to 100
	ShmBytes   int64    `json:"shmBytes,omitempty"`   // of /dev/shm; 0: 64 MiB
	OOMScore   int      `json:"oomScore,omitempty"`   // -1000 to 1000
	BlockIO    *BlockIO `json:"blockIO,omitempty"`
}

// BlockIO bounds and weighs input and output on block devices.
type BlockIO struct {
	Weight    uint16       `json:"weight,omitempty"`  // 10 to 1000
	Weights   []DeviceRate `json:"weights,omitempty"` // the lists are sorted by path
	ReadBps   []DeviceRate `json:"readBps,omitempty"` // bytes a second
	WriteBps  []DeviceRate `json:"writeBps,omitempty"`
	ReadIOps  []DeviceRate `json:"readIOps,omitempty"` // operations a second
	WriteIOps []DeviceRate `json:"writeIOps,omitempty"`
}

// DeviceRate is a bound or weight for one block device of the node.
type DeviceRate struct {
	Path string `json:"path"`
	Rate uint64 `json:"rate"`
}

// Naming is how a service's containers are called and whom they ask for names. Service.Naming is nil when nothing is set.
type Naming struct {
	// DNS servers answer for all that is not of the cluster; none: those of the node.
	DNS        []string `json:"dns,omitempty"`
	DNSSearch  []string `json:"dnsSearch,omitempty"` // in place of the cluster's; "." alone: none
	DNSOptions []string `json:"dnsOptions,omitempty"`
	Hosts      []Host   `json:"hosts,omitempty"` // for /etc/hosts, sorted by name, then address
	Domain     string   `json:"domain,omitempty"`
	MAC        string   `json:"mac,omitempty"` // as "02:42:ac:11:00:02"; "": follows from the address
}

// Host is a line of /etc/hosts.
type Host struct {
	Name    string `json:"name"`
	Address string `json:"address"` // or HostGateway: the node's own, as the container sees it
}

// HostGateway is Docker's word for the node's address.
const HostGateway = "host-gateway"

// Hook is a program that is executed in a container beside its own.
type Hook struct {
	Command    []string `json:"command"`
	User       string   `json:"user,omitempty"`
	WorkingDir string   `json:"workingDir,omitempty"`
	Env        []string `json:"env,omitempty"`
}

// Joined is the service behind a namespace mode "service:NAME", "" for every other mode.
func Joined(mode string) string { return joined(mode) }

func (i *Isolation) empty() bool {
	return !i.Privileged && !i.NewPrivileges && i.Seccomp == "" && i.AppArmor == "" && i.PID == "" && i.IPC == "" && i.UTS == "" &&
		i.Cgroup == "" && i.UserNS == "" && len(i.Groups)+len(i.Devices)+len(i.DeviceRules)+len(i.Sysctls)+len(i.Ulimits) == 0 && i.Umask == nil
}

func (n *Naming) empty() bool {
	return len(n.DNS)+len(n.DNSSearch)+len(n.DNSOptions)+len(n.Hosts) == 0 && n.Domain == "" && n.MAC == ""
}

// normalizeKeys brings Isolation, Tuning and Naming into one form; what says nothing becomes nil.
func (s *Service) normalizeKeys() {
	if i := s.Isolation; i != nil {
		i.normalize()
		if i.empty() {
			s.Isolation = nil
		}
	}
	if t := s.Tuning; t != nil {
		t.normalize()
		if *t == (Tuning{}) {
			s.Tuning = nil
		}
	}
	if n := s.Naming; n != nil {
		slices.SortStableFunc(n.Hosts, compareHosts)
		n.Hosts = slices.Compact(n.Hosts)
		if n.empty() {
			s.Naming = nil
		}
	}
}

func (i *Isolation) normalize() {
	own := func(mode *string, words ...string) {
		if slices.Contains(words, *mode) {
			*mode = ""
		}
	}
	own(&i.PID, "private")
	own(&i.IPC, "private", "shareable")
	own(&i.UTS, "private")
	own(&i.Cgroup, "private")
	own(&i.UserNS, ModeHost)
	slices.SortStableFunc(i.Devices, compareDevices)
	i.Devices = slices.Compact(i.Devices)
	slices.SortStableFunc(i.Ulimits, compareUlimits)
	i.Ulimits = slices.Compact(i.Ulimits)
}

func (t *Tuning) normalize() {
	b := t.BlockIO
	if b == nil {
		return
	}
	none := b.Weight == 0
	for _, list := range b.lists() {
		slices.SortStableFunc(*list, compareRates)
		none = none && len(*list) == 0
	}
	if none {
		t.BlockIO = nil
	}
}

func (b *BlockIO) lists() []*[]DeviceRate {
	return []*[]DeviceRate{&b.Weights, &b.ReadBps, &b.WriteBps, &b.ReadIOps, &b.WriteIOps}
}
