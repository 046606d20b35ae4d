package house

import (
	"os"
	"strings"
	"testing"
)

// systemd reads StartLimitIntervalSec in [Unit] alone, and gives a service up after five starts in 10 s without it.
func TestSystemdNeverGivesTheAgentUp(t *testing.T) {
	b, err := os.ReadFile(root + "/packaging/shoal.service")
	if err != nil {
		t.Fatal(err)
	}
	unit, service, _ := strings.Cut(string(b), "\n[Service]\n")
	_, unit, _ = strings.Cut(unit, "\n[Unit]\n")
	if !strings.Contains("\n"+unit+"\n", "\nStartLimitIntervalSec=0\n") || !strings.Contains(service, "\nRestart=always\n") {
		t.Errorf("after some failures nobody starts the agent again:\n%s", b)
	}
}
