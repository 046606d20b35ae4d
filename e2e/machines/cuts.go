package machines

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// Trouble is one fault of the network: an nftables table of its own, so that several can be there at once, each with its
// own counters and its own end.
type Trouble struct {
	table string   // family and name
	space string   // the network namespace that holds it
	owner *process // with whom the namespace goes
}

// Rules are what frames meet that pass the switch. The functions below make them, and And puts them together.
type Rules []string

// And joins two sets of rules.
func (r Rules) And(o Rules) Rules { return append(append(Rules(nil), r...), o...) }

// Make starts a fault of the switch.
func (n *Net) Make(r Rules) (*Trouble, error) {
	t := &Trouble{"bridge " + n.troubleName(), netSpace(n.holder.PID), n.holder}
	return t, t.begin("forward", r)
}

// Resets answers so many in a thousand (up to 999) of the TCP packets that reach a machine from others with a reset:
// connections break all the time. It ends with the machine's power.
func (n *Net) Resets(m *Machine, perMille int) (*Trouble, error) {
	m.mu.Lock()
	pid, owner := m.pid, m.init
	m.mu.Unlock()
	if pid == 0 {
		return nil, fmt.Errorf("reset connections of %s: it is off", m.Name)
	}
	// The kernel here cannot reject in a bridge.
	t := &Trouble{"inet " + n.troubleName(), netSpace(pid), owner}
	return t, t.begin("input", Rules{fmt.Sprintf(`iifname "eth0" meta l4proto tcp numgen random mod 1000 < %d counter reject with tcp reset`, perMille)})
}

func (n *Net) troubleName() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.troubles++
	return fmt.Sprintf("trouble%d", n.troubles)
}

func netSpace(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

func (t *Trouble) begin(hook string, r Rules) error {
	return t.nft(fmt.Sprintf("table %s {\n chain faults { type filter hook %s priority -10; policy accept;\n%s\n }\n}\n", t.table, hook, strings.Join(r, "\n")))
}

func (t *Trouble) nft(script string) error {
	if !t.owner.alive() { // and the namespace with it; its pid may be another's by now
		return nil
	}
	cmd := exec.Command("nsenter", "--net="+t.space, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil && t.owner.alive() {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// End ends it. A second time does nothing.
func (t *Trouble) End() error {
	return t.nft(fmt.Sprintf("table %[1]s\ndelete table %[1]s\n", t.table))
}

// Hits tells how many frames met one of its rules.
func (t *Trouble) Hits() (int, error) {
	list := append([]string{"--net=" + t.space, "nft", "-j", "list", "table"}, strings.Fields(t.table)...)
	out, err := exec.Command("nsenter", list...).Output()
	if err != nil {
		return 0, fmt.Errorf("count what %s met: %w", t.table, err)
	}
	var doc struct {
		Nftables []struct {
			Rule *struct {
				Expr []struct {
					Counter *struct {
						Packets int `json:"packets"`
					} `json:"counter"`
				} `json:"expr"`
			} `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return 0, err
	}
	hits := 0
	for _, o := range doc.Nftables {
		if o.Rule == nil {
			continue
		}
		for _, e := range o.Rule.Expr {
			if e.Counter != nil {
				hits += e.Counter.Packets
			}
		}
	}
	return hits, nil
}

// OneWay drops what from sends to to, of such packets ("", or nft's words such as OnlyUDP).
func OneWay(from, to *Machine, match string) Rules {
	return Rules{fmt.Sprintf("iifname %q oifname %q %s counter drop", from.port, to.port, match)}
}

// Pair drops what two machines send to each other.
func Pair(a, b *Machine, match string) Rules { return OneWay(a, b, match).And(OneWay(b, a, match)) }

// Split drops what passes between machines of different groups.
func Split(match string, groups ...[]*Machine) Rules {
	var r Rules
	for i, g := range groups {
		for _, h := range groups[i+1:] {
			for _, a := range g {
				for _, b := range h {
					r = r.And(Pair(a, b, match))
				}
			}
		}
	}
	return r
}

// OnlyUDP and OnlyTCP are matches: what of the traffic is cut.
const (
	OnlyUDP = "ip protocol udp"
	OnlyTCP = "ip protocol tcp"
)

// Lossy drops so many percent of all frames, up to 99.
func Lossy(percent int) Rules {
	return Rules{fmt.Sprintf("numgen random mod 100 < %d counter drop", percent)}
}

// BlackHole drops what is larger than so many bytes from or to a machine, and tells nobody: a path with a smaller packet
// size than its ends believe.
func BlackHole(m *Machine, bytes int) Rules {
	return Rules{
		fmt.Sprintf("iifname %q meta length > %d counter drop", m.port, bytes),
		fmt.Sprintf("oifname %q meta length > %d counter drop", m.port, bytes),
	}
}
