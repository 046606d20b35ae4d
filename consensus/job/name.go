package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	maxName       = 63  // a DNS label (RFC 1035 section 2.3.4): services are found by name
	maxVolumeName = 128 // a directory's name on the node, with room below NAME_MAX
)

// ValidName tells whether s can name a job or a service: [a-z0-9][a-z0-9_-]{0,62}.
func ValidName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_') {
			return false
		}
	}
	return true
}

func nameProblem(s string) string {
	if s == "" {
		return "the name is empty"
	}
	return fmt.Sprintf("%q is not a name of a-z, 0-9, _ and - that begins with a letter or digit and has at most %d characters", shorten(s), maxName)
}

// ValidVolumeName tells whether s can be a volume's full name: [A-Za-z0-9][A-Za-z0-9_.-]{0,127}.
func ValidVolumeName(s string) bool {
	if s == "" || len(s) > maxVolumeName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return true
}

// validHostname accepts what sethostname and /etc/hosts take without surprises: labels of letters, digits, - and _.
func validHostname(s string) bool {
	if s == "" || len(s) > MaxHostname {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// signals are Linux' names on all the machines that shoal knows (signal(7)); the numbers are the runtime's business.
var signals = strings.Fields(`ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT
	STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ`)

// ValidSignal tells whether s is a signal's name, with or without SIG, RTMIN+n, RTMAX-n, or a number from 1 to 64.
func ValidSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n >= 1 && n <= 64
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for _, rt := range []string{"RTMIN", "RTMAX"} {
		if rest, ok := strings.CutPrefix(name, rt); ok {
			if rest == "" {
				return true
			}
			n, err := strconv.ParseUint(rest[1:], 10, 8)
			return err == nil && n <= 30 && rest[0] == map[string]byte{"RTMIN": '+', "RTMAX": '-'}[rt]
		}
	}
	return slices.Contains(signals, name)
}

// capabilities as of Linux 6.x (capability.h), without CAP_.
var capabilities = strings.Fields(`AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN
	DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD
	NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT
	SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM`)

// ValidCapability tells whether s names a capability, in any case, with or without CAP_, or ALL.
func ValidCapability(s string) bool {
	name := canonicalCapability(s)
	return name == "ALL" || slices.Contains(capabilities, name)
}

func canonicalCapability(s string) string {
	return strings.TrimPrefix(strings.ToUpper(s), "CAP_")
}
