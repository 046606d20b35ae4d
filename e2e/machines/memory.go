package machines

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory of a process in KiB.
type Memory struct{ RSS, PSS, Private float64 }

// ReadMemory reads a process's smaps_rollup (proc(5)). PSS divides pages among all processes that map them.
func ReadMemory(pid int) (Memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return Memory{}, err
	}
	return parseMemory(b)
}

func parseMemory(b []byte) (Memory, error) {
	found := map[string]float64{}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 3 && f[2] == "kB" {
			v, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return Memory{}, fmt.Errorf("smaps_rollup: %w", err)
			}
			found[strings.TrimSuffix(f[0], ":")] = v
		}
	}
	m := Memory{found["Rss"], found["Pss"], found["Private_Clean"] + found["Private_Dirty"]}
	if m.RSS == 0 {
		return m, fmt.Errorf("smaps_rollup has no Rss")
	}
	return m, nil
}

// Monitors finds the monitor processes of the machine's containers by the name that they give themselves.
func (m *Machine) Monitors() []int {
	var out []int
	for pid := range m.Processes() {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(comm)) == "shoal-monitor" {
			out = append(out, pid)
		}
	}
	return out
}
