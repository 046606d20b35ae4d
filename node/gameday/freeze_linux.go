package gameday

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// freezerOf finds the file that freezes the container of a process: on cgroup v2 cgroup.freeze, else the freezer
// hierarchy's freezer.state.
func freezerOf(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("find the container's cgroup: %w", err)
	}
	var tried []string
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[2] == "/" {
			continue
		}
		var file string
		switch f[1] {
		case "freezer":
			file = filepath.Join("/sys/fs/cgroup/freezer", f[2], "freezer.state")
		case "":
			file = filepath.Join("/sys/fs/cgroup", f[2], "cgroup.freeze")
		default:
			continue
		}
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
		tried = append(tried, file)
	}
	return "", fmt.Errorf("the container has no freezer cgroup; looked for %s", strings.Join(tried, ", "))
}

// setFrozen freezes or thaws. A container that is gone is thawed.
func setFrozen(file string, frozen bool) error {
	word := map[bool]string{true: "1", false: "0"}[frozen]
	if filepath.Base(file) == "freezer.state" {
		word = map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
	}
	err := os.WriteFile(file, []byte(word), 0)
	if !frozen && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
