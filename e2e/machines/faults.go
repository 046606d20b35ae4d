package machines

import (
	"fmt"
	"strings"
)

// The faults of the switch are one nftables table of the bridge family in the switch's own namespace; each change
// replaces it as a whole.

// Partition splits the network into groups that do not hear each other; machines in no group form one more.
func (n *Net) Partition(groups ...[]*Machine) error {
	side := map[*Machine]int{}
	for i, g := range groups {
		for _, m := range g {
			side[m] = i + 1
		}
	}
	var rules []string
	for _, a := range n.Machines() {
		for _, b := range n.Machines() {
			if a != b && side[a] != side[b] {
				rules = append(rules, fmt.Sprintf("iifname %q oifname %q counter drop", a.port, b.port))
			}
		}
	}
	return n.setRules(rules)
}

// Isolate cuts one machine off from all others.
func (n *Net) Isolate(m *Machine) error { return n.Partition([]*Machine{m}) }

// CutOneWay drops what from sends to to, and only that.
func (n *Net) CutOneWay(from, to *Machine) error {
	return n.addRules(fmt.Sprintf("iifname %q oifname %q counter drop", from.port, to.port))
}

// CutTCP drops all TCP between two machines; UDP passes.
func (n *Net) CutTCP(a, b *Machine) error {
	return n.addRules(
		fmt.Sprintf("iifname %q oifname %q ip protocol tcp counter drop", a.port, b.port),
		fmt.Sprintf("iifname %q oifname %q ip protocol tcp counter drop", b.port, a.port),
	)
}

// Loss drops so many percent of all frames.
func (n *Net) Loss(percent int) error {
	return n.addRules(fmt.Sprintf("numgen random mod 100 < %d counter drop", percent))
}

// Heal ends all faults of the switch.
func (n *Net) Heal() error { return n.setRules(nil) }

func (n *Net) addRules(rules ...string) error {
	n.mu.Lock()
	all := append(append([]string(nil), n.rules...), rules...)
	n.mu.Unlock()
	return n.setRules(all)
}

func (n *Net) setRules(rules []string) error {
	var b strings.Builder
	b.WriteString("table bridge faults\ndelete table bridge faults\ntable bridge faults {\n chain forward {\n  type filter hook forward priority 0\n  policy accept\n")
	for _, r := range rules {
		b.WriteString("  " + r + "\n")
	}
	b.WriteString(" }\n}\n")
	if err := n.inSwitch("nft -f - <<'EOF'\n" + b.String() + "EOF"); err != nil {
		return err
	}
	n.mu.Lock()
	n.rules = rules
	n.mu.Unlock()
	return nil
}
