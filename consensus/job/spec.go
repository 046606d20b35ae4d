// Package job holds the nouns that all of shoal speaks of: what an admin asks for (Spec), what was decided (Task), what
// happened (Status), and where (Node); how each is validated and compared. It does nothing with them: it knows no log,
// no network and no container.
package job

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"time"
)

// Ids have types of their own, so that the compiler catches a swap.
type (
	// NodeID is 16 random bytes in hex, made by the node and kept in its raft directory.
	NodeID string
	// TaskID is 13 characters of base32 (a-z2-7), random; people may type a unique prefix.
	TaskID string
	// Digest identifies a service's content: the first 16 bytes of its SHA-256, in hex.
	Digest string
)

// Spec is what an admin submits: a Compose project. It is immutable once submitted.
type Spec struct {
	Name     string    `json:"name"`     // [a-z0-9][a-z0-9_-]{0,62}
	Services []Service `json:"services"` // sorted by name, at least one, names unique
	Volumes  []Volume  `json:"volumes,omitempty"`
	// Source is the text it came from, for history and diff; may be empty; at most 256 KiB.
	Source string `json:"source,omitempty"`
}

// Volume is a named local volume that services of the job mount. Name is its full name on a node ("<job>_<key>"
// unless the file names it).
type Volume struct {
	Name string `json:"name"`
	// External volumes must exist already on the node.
	External bool `json:"external,omitempty"`
}

// Mode is how many tasks a service has.
type Mode string

// Modes. The zero value is Replicated.
const (
	Replicated Mode = "replicated" // Replicas tasks
	Global     Mode = "global"     // one task on every eligible node
)

// Service is one entry of a job. Everything in it belongs to its Digest except Replicas (but for a batch), Update, Rollback,
// Schedule and Batch (but for what exit codes mean): a change of Replicas only adds or removes tasks, and one of the others
// only tells how the next change or run is to be made. A change of anything else gives the tasks another content: new
// tasks, unless only such fields differ as a running one can take over (tune.go).
type Service struct {
	Name     string `json:"name"` // [a-z0-9][a-z0-9_-]{0,62}
	Mode     Mode   `json:"mode,omitempty"`
	Replicas int    `json:"replicas"` // 0..MaxReplicas; completions of a batch; ignored where Mode.PerNode

	Image      string            `json:"image"`
	Entrypoint []string          `json:"entrypoint,omitempty"` // nil: the image's
	Command    []string          `json:"command,omitempty"`    // nil: the image's
	Env        []string          `json:"env,omitempty"`        // KEY=VALUE, sorted, keys unique
	Labels     map[string]string `json:"labels,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	User       string            `json:"user,omitempty"`
	Hostname   string            `json:"hostname,omitempty"` // "": "<service>-<slot>"
	TTY        bool              `json:"tty,omitempty"`
	Stdin      bool              `json:"stdin,omitempty"`
	Attach     bool              `json:"attach,omitempty"` // keep what a task writes for the first who attaches to it
	Init       bool              `json:"init,omitempty"`
	ReadOnly   bool              `json:"readOnly,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
	StopGrace  time.Duration     `json:"stopGrace,omitempty"` // nanoseconds; 0: 10 s
	// Drain is how long open connections of a task that is to end may go on after nobody is sent to it any more, before it
	// is asked to stop; 0: DefaultDrain, NoDrain: none.
	Drain time.Duration `json:"drain,omitempty"`

	Ports   []Port   `json:"ports,omitempty"`
	Mounts  []Mount  `json:"mounts,omitempty"`
	CapAdd  []string `json:"capAdd,omitempty"`
	CapDrop []string `json:"capDrop,omitempty"`

	Health       *Health      `json:"health,omitempty"` // nil: the image's, if it has one
	Restart      Restart      `json:"restart"`
	Limits       Resources    `json:"limits"`       // enforced on the container
	Reservations Resources    `json:"reservations"` // counted by the scheduler; where 0, Limits count
	Constraints  []Constraint `json:"constraints,omitempty"`
	DependsOn    []Dependency `json:"dependsOn,omitempty"` // sorted by service
	Log          LogLimits    `json:"log"`

	// Rebalance says whether its tasks may be moved to nodes that join or return; nil: those of FailoverFast.
	Rebalance *bool `json:"rebalance,omitempty"`
	// Failover says when a task of a lost node is placed anew; nil: the defaults (see FailoverPolicy).
	Failover *Failover `json:"failover,omitempty"`

	// Update says how tasks are replaced when the content changes, Rollback how they are on the way back; nil: defaults.
	Update   *Update `json:"update,omitempty"`
	Rollback *Update `json:"rollback,omitempty"`
	// NetworkMode is "" for a network of its own, "none", "host" or "service:NAME": the network of that service's task in
	// the same slot, which is on the same node.
	NetworkMode string `json:"networkMode,omitempty"`
	// Placement says where its tasks may and had better be; nil: anywhere.
	Placement *Placement `json:"placement,omitempty"`
	// Priority is 0 to MaxPriority; nil: DefaultPriority. Strategy "" is the cluster's. Neither belongs to the Digest.
	Priority *int     `json:"priority,omitempty"`
	Strategy Strategy `json:"strategy,omitempty"`
	// Generic are countable things of its node that each task gets for itself, sorted by kind; at most MaxGeneric.
	Generic []GenericRequest `json:"generic,omitempty"`
	// Isolation, Tuning and Naming hold what few services set; nil when they set none of it.
	Isolation *Isolation `json:"isolation,omitempty"`
	Tuning    *Tuning    `json:"tuning,omitempty"`
	Naming    *Naming    `json:"naming,omitempty"`
	// PostStart are executed once the container runs, PreStop before its stop signal; in order.
	PostStart []Hook `json:"postStart,omitempty"`
	PreStop   []Hook `json:"preStop,omitempty"`
	// Batch says how runs of a batch go, Schedule when they begin; nil: the defaults, and with the submit.
	Batch    *Batch    `json:"batch,omitempty"`
	Schedule *Schedule `json:"schedule,omitempty"`
	// Autoscale says how Replicas follow what the tasks do; nil: they do not.
	Autoscale *Autoscale `json:"autoscale,omitempty"`
	// Renewal counts how often a restart of all tasks was asked for. Apply's pen: what a submit says of it is ignored.
	Renewal uint64 `json:"renewal,omitempty"`
}

// Of Service.Drain.
const (
	DefaultDrain = time.Second // as long as a DNS answer may be believed (runtime/network)
	NoDrain      = time.Duration(-1)
	MaxDrain     = time.Hour
)

// MaxReplicas bounds one service.
const MaxReplicas = 100_000

// Port publishes a container's port on the node that runs the task. Published 0 lets the node choose.
type Port struct {
	HostIP    netip.Addr `json:"hostIP,omitzero"`
	Published uint16     `json:"published,omitempty"`
	Target    uint16     `json:"target"`
	Protocol  string     `json:"protocol"` // tcp, udp
}

// Mount types.
const (
	MountBind   = "bind"
	MountVolume = "volume"
	MountTmpfs  = "tmpfs"
)

// Mount is a bind mount, a named volume or a tmpfs.
type Mount struct {
	Type           string `json:"type"`
	Source         string `json:"source,omitempty"` // bind: absolute path on the node; volume: full name, "" is anonymous
	Target         string `json:"target"`
	ReadOnly       bool   `json:"readOnly,omitempty"`
	CreateHostPath bool   `json:"createHostPath,omitempty"`
	SizeBytes      int64  `json:"sizeBytes,omitempty"` // tmpfs
	FileMode       uint32 `json:"fileMode,omitempty"`  // tmpfs
	NoCopy         bool   `json:"noCopy,omitempty"`    // volume
	External       bool   `json:"external,omitempty"`  // volume: must be on the node already
	// Propagation of a bind is "" for rprivate, or another word of mount(8). Subpath is the part of a volume that is mounted.
	// Options are further ones of a tmpfs, sorted, with commas between.
	Propagation string `json:"propagation,omitempty"`
	Subpath     string `json:"subpath,omitempty"`
	Options     string `json:"options,omitempty"`
	NoRecurse   bool   `json:"noRecurse,omitempty"` // bind: without what is mounted below the source
}

// Health is a health check: Test is executed in the container (Test[0] is NONE, CMD or CMD-SHELL), or Probe asks it from
// outside and Test is empty; with neither the image's own test is made. Zero durations and retries are Docker's defaults.
type Health struct {
	Test          []string      `json:"test"`
	Probe         *Probe        `json:"probe,omitempty"`
	Interval      time.Duration `json:"interval,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`
	StartInterval time.Duration `json:"startInterval,omitempty"`
	Retries       int           `json:"retries,omitempty"`
}

// RestartPolicy says when a node starts an exited container again by itself.
type RestartPolicy string

// Restart policies. The zero value is RestartAny: a service is meant to run.
const (
	RestartAny       RestartPolicy = ""           // always, and when exhausted the leader places a new task
	RestartOnFailure RestartPolicy = "on-failure" // only after a non-zero exit
	RestartNever     RestartPolicy = "no"         // an exit is final: the slot is complete or failed, nothing replaces it
)

// Restart is a restart policy. Max 0 means DefaultRestarts for the local tries; when they are exhausted the task has
// failed and the leader places a new one, elsewhere if it can (unless RestartNever).
type Restart struct {
	Policy RestartPolicy `json:"policy,omitempty"`
	Max    int           `json:"max,omitempty"`    // local restarts in Window, then the task fails
	Delay  time.Duration `json:"delay,omitempty"`  // before the first restart, doubled up to MaxRestartDelay; 0: 100 ms
	Window time.Duration `json:"window,omitempty"` // a container that ran for this long starts counting anew; 0: 10 s
}

// Bounds of local restarts.
const (
	DefaultRestarts = 5
	MaxRestartDelay = 30 * time.Second
)

// Resources are amounts; 0 means none asked.
type Resources struct {
	NanoCPUs    int64 `json:"nanoCPUs,omitempty"`
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	PIDs        int64 `json:"pids,omitempty"`
}

// LogLimits bound a task's log on its node; zero values are the runtime's defaults.
type LogLimits struct {
	MaxBytes int64 `json:"maxBytes,omitempty"`
	MaxFiles int   `json:"maxFiles,omitempty"`
	None     bool  `json:"none,omitempty"` // nothing is kept
}

// Dependency conditions of Compose.
const (
	DependStarted   = "service_started"
	DependHealthy   = "service_healthy"
	DependCompleted = "service_completed_successfully"
)

// Dependency holds back a service's tasks until another service of the job has reached Condition.
type Dependency struct {
	Service   string `json:"service"`
	Condition string `json:"condition"`
	// Restart: when the other's tasks are replaced by a change or a restart of the job, this service's are too.
	Restart bool `json:"restart,omitempty"`
}

// Content is the service without what is no part of its Digest.
func (s Service) Content() Service {
	s.Update, s.Rollback, s.Schedule, s.Autoscale, s.Batch = nil, nil, nil, nil, s.Batch.batchContent()
	if s.Mode != ReplicatedJob { // whose completions are what it is
		s.Replicas = 0
	}
	s.Priority, s.Strategy, s.Rebalance = nil, "", nil
	return s
}

// Digest tells contents apart: what a task runs with. See Shape for what needs a new task.
func (s Service) Digest() Digest {
	b, err := json.Marshal(s.Content())
	if err != nil {
		panic("job: a service must always encode: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return Digest(hex.EncodeToString(sum[:16]))
}

// Demand is what the scheduler counts for one task: reservations, and limits where nothing is reserved.
func (s *Service) Demand() Resources {
	d := s.Reservations
	if d.NanoCPUs == 0 {
		d.NanoCPUs = s.Limits.NanoCPUs
	}
	if d.MemoryBytes == 0 {
		d.MemoryBytes = s.Limits.MemoryBytes
	}
	if d.PIDs == 0 {
		d.PIDs = s.Limits.PIDs
	}
	return d
}

// Service finds a service by name, nil if there is none.
func (s *Spec) Service(name string) *Service {
	for i := range s.Services {
		if s.Services[i].Name == name {
			return &s.Services[i]
		}
	}
	return nil
}
