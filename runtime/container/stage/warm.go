package stage

import (
	"encoding/json"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"

	"shoal/runtime"
)

// warmUp goes once through what a start computes, for a container that will never be, so that a launcher that waits, and
// its init, have their pages and their reflection's tables when one comes. It touches no file system, and no error counts.
// It gives the configuration that the init is to read for practice.
func warmUp() []byte {
	job := Launch{
		ID: "practice", Start: 1, Dir: "/nonexistent", StateDir: "/nonexistent", Cgroup: "/practice", HasNetwork: true,
		Record: Record{Spec: runtime.Spec{ID: "practice", Command: []string{"true"}}, Config: ImageConfig{Env: []string{"A=b"}}, CreatedAt: time.Now()},
		Layers: []string{"/nonexistent"},
	}
	text, err := json.Marshal(job)
	if err != nil || json.Unmarshal(text, &job) != nil {
		return nil
	}
	who := identity{Home: "/root"}
	config, _, err := buildConfig(job, "/", who, "")
	if err != nil {
		return nil
	}
	_ = (&ahead{}).fits(config.config)
	p := &libcontainer.Process{Init: true, Args: job.Record.Spec.Command, Env: processEnv(job.Record, who), Cwd: config.cwd}
	text, err = json.Marshal(newInitConfig("practice", config.config, noCgroup{}, p))
	if err != nil {
		return nil
	}
	_, _ = json.Marshal(libcontainer.State{BaseState: libcontainer.BaseState{ID: "practice", Config: *config.config}})
	return text
}

// noCgroup is asked for its path only.
type noCgroup struct{ cgroups.Manager }

func (noCgroup) Path(string) string { return "" }
