package job

import "time"

// Bounds of a spec. They keep one submit well below what the log carries in one entry and what the scheduler handles in
// one pass; a file that needs more wants to be several jobs. Where the kernel or the runtime sets the number, it says so.
const (
	MaxServices     = 200
	MaxVolumes      = 200
	MaxPorts        = 1000      // of one service
	MaxMounts       = 100       // of one service
	MaxLabels       = 256       // of one service
	MaxLabelBytes   = 4 << 10   // one label's key and value
	MaxEnv          = 1000      // variables of one service
	MaxEnvBytes     = 64 << 10  // all variables of one service
	MaxArgs         = 1000      // entrypoint or command
	MaxArgBytes     = 64 << 10  // all of entrypoint or command
	MaxConstraints  = 32        // of one service
	MaxTextBytes    = 1 << 10   // image, user and the like
	MaxPathBytes    = 4095      // PATH_MAX less its NUL (limits.h)
	MaxHostname     = 64        // HOST_NAME_MAX (sethostname(2))
	MaxSourceBytes  = 256 << 10 // Spec.Source
	MaxGrace        = time.Hour
	MaxHealthTime   = 24 * time.Hour // any duration of a health check
	MinHealthTime   = time.Millisecond
	MaxHealthTries  = 1000
	MaxRestarts     = 10_000
	MaxWindow       = 24 * time.Hour
	MaxUpdateTime   = 24 * time.Hour // delay and monitor of an update
	MinNanoCPUs     = 10_000_000     // a CFS quota of 1 ms in a period of 100 ms, the kernel's least
	MaxNanoCPUs     = 8192 * 1_000_000_000
	MinMemoryBytes  = 6 << 20 // less does not start a container: its first process is the shoal binary
	MaxMemoryBytes  = 1 << 50
	MaxPIDs         = 1 << 22 // PID_MAX_LIMIT
	MinLogBytes     = 4 << 10
	MaxLogBytes     = 16 << 30
	MaxLogFiles     = 100
	MaxTmpfsBytes   = 1 << 50
	MaxFileModeBits = 0o7777

	// MaxProblems is how many problems one Validate lists; more are counted.
	MaxProblems = 50
)
