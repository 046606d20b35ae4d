package stage

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// initConfig is what libcontainer tells its init (libcontainer/init_linux.go).
type initConfig struct {
	Config           *configs.Config       `json:"config"`
	Args             []string              `json:"args"`
	Env              []string              `json:"env"`
	UID              int                   `json:"uid"`
	GID              int                   `json:"gid"`
	AdditionalGroups []int                 `json:"additional_groups"`
	Cwd              string                `json:"cwd"`
	CreateConsole    bool                  `json:"create_console"`
	ConsoleWidth     uint16                `json:"console_width"`
	ConsoleHeight    uint16                `json:"console_height"`
	PassedFilesCount int                   `json:"passed_files_count"`
	AppArmorProfile  string                `json:"apparmor_profile"`
	Capabilities     *configs.Capabilities `json:"capabilities"`
	NoNewPrivileges  bool                  `json:"no_new_privileges"`
	ProcessLabel     string                `json:"process_label"`
	Rlimits          []configs.Rlimit      `json:"rlimits"`
	IOPriority       *configs.IOPriority   `json:"io_priority,omitempty"`
	Scheduler        *configs.Scheduler    `json:"scheduler,omitempty"`
	CPUAffinity      *configs.CPUAffinity  `json:"cpu_affinity,omitempty"`
	ContainerID      string                `json:"containerid"`
	Cgroup2Path      string                `json:"cgroup2_path,omitempty"`
	Networks         []network             `json:"network"`
	SpecState        *struct{}             `json:"spec_state,omitempty"`
}

// network is one of the interfaces that init configures: here, loopback only.
type network struct {
	configs.Network

	TempVethPeerName string `json:"temp_veth_peer_name"`
}

// syncPacket is what init and its parent say to each other (libcontainer/sync.go).
type syncPacket struct {
	Type  string          `json:"type"`
	Flags int             `json:"flags"`
	Arg   json.RawMessage `json:"arg,omitempty"`
}

// Types of syncPacket.
const (
	procError       = "procError"
	procReady       = "procReady"
	procRun         = "procRun"
	procHooks       = "procHooks"
	procHooksDone   = "procHooksDone"
	procMountPlease = "procMountPlease"
)

func newInitConfig(id string, config *configs.Config, cg cgroups.Manager, p *libcontainer.Process) initConfig {
	c := initConfig{
		Config: config, Args: p.Args, Env: p.Env, UID: p.UID, GID: p.GID, AdditionalGroups: p.AdditionalGroups, Cwd: p.Cwd,
		CreateConsole: p.ConsoleSocket != nil, ConsoleWidth: p.ConsoleWidth, ConsoleHeight: p.ConsoleHeight,
		AppArmorProfile: config.AppArmorProfile, Capabilities: config.Capabilities, NoNewPrivileges: config.NoNewPrivileges,
		ProcessLabel: config.ProcessLabel, Rlimits: config.Rlimits, IOPriority: config.IOPriority, Scheduler: config.Scheduler,
		CPUAffinity: config.ExecCPUAffinity, ContainerID: id,
	}
	for _, n := range config.Networks {
		c.Networks = append(c.Networks, network{Network: *n})
	}
	if cgroups.IsCgroup2UnifiedMode() {
		c.Cgroup2Path = cg.Path("")
	}
	return c
}

// gateMessage says what the descriptors are that come with it: first this launcher's mount namespace and the FIFO, then
// standard input, output and error, or the socket over which the terminal is to be sent.
type gateMessage struct {
	Console         bool `json:"console,omitempty"`
	CgroupNamespace bool `json:"cgroupNamespace,omitempty"`
}

func (a *ahead) say(kind string) error {
	text, err := json.Marshal(syncPacket{Type: kind})
	if err == nil {
		_, err = a.sync.Write(text)
	}
	return err
}

func (a *ahead) receive() (p syncPacket, err error) {
	size, _, err := unix.Recvfrom(int(a.sync.Fd()), nil, unix.MSG_TRUNC|unix.MSG_PEEK)
	for err == unix.EINTR {
		size, _, err = unix.Recvfrom(int(a.sync.Fd()), nil, unix.MSG_TRUNC|unix.MSG_PEEK)
	}
	if err != nil {
		return p, os.NewSyscallError("recvfrom", err)
	}
	if size == 0 {
		return p, io.EOF
	}
	buf := make([]byte, size)
	if _, err := a.sync.Read(buf); err != nil {
		return p, err
	}
	return p, json.Unmarshal(buf, &p)
}

// logs reads what the init logged of weight, until it closes that pipe, in a form to be put behind an error.
func (a *ahead) logs() string {
	_ = a.log.SetReadDeadline(time.Now().Add(logPatience))
	var out []string
	s := bufio.NewScanner(a.log)
	for s.Scan() {
		var l struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		switch err := json.Unmarshal(s.Bytes(), &l); {
		case err != nil:
		case l.Level == "fatal", l.Level == "panic":
			out = append(out, l.Msg)
		case l.Level == "debug", l.Level == "info":
		default:
			logrus.Warn(l.Msg) // the launcher's own, which it puts behind errors
		}
	}
	a.log.Close()
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, "; ")
}

// logPatience is for an init that hangs with its log open.
const logPatience = 5 * time.Second
