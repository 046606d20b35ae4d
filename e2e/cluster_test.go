package e2e

import (
	"fmt"
	"testing"

	"shoal/e2e/machines"
)

// TestForm: the cluster gives itself as many voters as its size asks for, and says plainly what it cannot survive.
func TestForm(t *testing.T) {
	sizes := []struct{ nodes, voters, standbys int }{{1, 1, 0}, {3, 3, 0}, {5, 3, 2}}
	for _, size := range sizes {
		if testing.Short() && size.nodes != 3 {
			continue
		}
		t.Run(fmt.Sprintf("%d nodes", size.nodes), func(t *testing.T) {
			n := cluster(t, size.nodes)
			for _, m := range n.Machines() {
				eventually(t, "the same roles on "+m.Name, func() error { return rolesAre(m, size.voters, size.standbys) })
			}
			list, err := nodes(n.Machines()[0])
			must(t, err)
			if warned := list.Warning != ""; warned != (size.nodes < 3) {
				t.Errorf("with %d nodes the warning is %q", size.nodes, list.Warning)
			}
		})
	}
}

func rolesAre(m *machines.Machine, voters, standbys int) error {
	list, err := nodes(m)
	if err != nil {
		return err
	}
	count := map[string]int{}
	leaders := 0
	for _, node := range list.Nodes {
		count[node.Role]++
		if node.Leader {
			leaders++
		}
	}
	if count["voter"] != voters || count["standby"] != standbys || leaders != 1 {
		return fmt.Errorf("roles are %v with %d leaders, want %d voters, %d standbys, 1 leader", count, leaders, voters, standbys)
	}
	return nil
}
