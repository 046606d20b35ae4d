package machines

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Autopsy tells what can be seen from outside of a machine with a kernel of its own, whether or not anybody answers
// inside: what its kernel said last, and where its processors are. Of a machine out of namespaces there is nothing to say.
func (m *Machine) Autopsy() string {
	if _, ok := m.net.driver.(*virtual); !ok {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "console: %s\nqemu: %s\n", lastOf(filepath.Join(m.dir, "console.log"), 4000), lastOf(filepath.Join(m.dir, "qemu.log"), 400))
	if !m.On() || m.fell() {
		return b.String()
	}
	mon, err := dialMonitor(monitorOf(m))
	if err != nil {
		return b.String() + err.Error()
	}
	defer mon.conn.Close()
	for _, what := range []string{"info status", "info registers -a", "info network"} {
		said, err := mon.do(what)
		if err != nil {
			return b.String() + err.Error()
		}
		b.WriteString(said)
	}
	return b.String()
}

func monitorOf(m *Machine) string { return filepath.Join(m.dir, "monitor") }
