package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/e2e/machines"
)

// recorded reads what the writers appended to the record: the fencing tokens in the order in which they wrote.
func recorded(path string) (order []string, lines map[string]int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	lines = map[string]int{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		token := strings.TrimSpace(sc.Text())
		if len(order) == 0 || order[len(order)-1] != token {
			order = append(order, token)
		}
		lines[token]++
	}
	return order, lines, nil
}

// A fenced writer writes to a record that lies outside of all machines. When its machine is cut off, and with its agent
// killed or frozen too, another one takes over; at no time do two write, and the token of the later one is higher.
func TestFencedWriterIsNeverThereTwice(t *testing.T) {
	n := cluster(t, 3)
	loadBusybox(t, n.Machines()[0])
	record := filepath.Join(t.TempDir(), "record")
	must(t, os.WriteFile(record, nil, 0o666))
	must(t, os.Chmod(record, 0o666))
	// The program changes its user, which costs it its death signal: only the forced init holds it.
	runCompose(t, n.Machines()[0], "db", fmt.Sprintf(`
services:
  writer:
    image: %s
    command: [sh, -c, "trap '' TERM; exec /bin/busybox su -s /bin/sh nobody -c 'while :; do echo $$SHOAL_FENCING_TOKEN >> /record; sleep 0.01; done'"]
    x-failover: {mode: fenced, lease: 4s}
    volumes: [{type: bind, source: %s, target: /record}]
`, busyboxImage, record))
	for _, fault := range []struct {
		name string
		play func(*machines.Machine)
	}{
		{"cut off", func(*machines.Machine) {}},
		{"cut off, its agent killed", func(m *machines.Machine) { must(t, m.Signal(syscall.SIGKILL)) }},
		{"cut off, its agent frozen", func(m *machines.Machine) { must(t, m.Signal(syscall.SIGSTOP)) }},
	} {
		ok := t.Run(fault.name, func(t *testing.T) {
			var lost, other *machines.Machine
			eventually(t, "one writer", func() error {
				for _, m := range n.Machines() {
					if len(m.Tasks("db")) > 0 {
						lost = m
					} else {
						other = m
					}
				}
				if lost == nil {
					return fmt.Errorf("none runs")
				}
				return exactly(other, "db", 1)
			})
			before, _, err := recorded(record)
			must(t, err)
			fault.play(lost)
			must(t, n.Isolate(lost))
			cut := time.Now()
			eventually(t, "another writer", func() error {
				after, _, err := recorded(record)
				if err == nil && len(after) <= len(before) {
					err = fmt.Errorf("still %v", after)
				}
				return err
			})
			t.Logf("another one wrote %v after the cut", time.Since(cut).Round(10*time.Millisecond))
			time.Sleep(3 * time.Second) // time for the first one to write again, if it could
			order, lines, err := recorded(record)
			must(t, err)
			seen := map[string]bool{}
			for i, token := range order {
				if seen[token] {
					t.Fatalf("writer %s wrote again after another one: %v %v", token, order, lines)
				}
				seen[token] = true
				if i > 0 && (len(token) < len(order[i-1]) || len(token) == len(order[i-1]) && token < order[i-1]) {
					t.Errorf("token %s came after %s", token, order[i-1])
				}
			}
			must(t, n.Heal())
			switch fault.name {
			case "cut off, its agent killed":
				_, err := lost.AwaitEnd(patience)
				must(t, err)
				must(t, lost.Start())
			case "cut off, its agent frozen":
				must(t, lost.Signal(syscall.SIGCONT))
			}
			eventually(t, "all nodes to be ready", func() error {
				list, err := nodes(other)
				for _, k := range list.Nodes {
					if k.State != "ready" {
						return fmt.Errorf("%s is %s", k.Name, k.State)
					}
				}
				return err
			})
		})
		if !ok {
			return
		}
	}
}
