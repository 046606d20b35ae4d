package machines

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// Trouble is one fault of the switch: an nftables table of its own, so that several can be there at once, each with its
// own counters and its own end.
type Trouble struct {
	net   *Net
	table string
}

// Rules of a Trouble. They are made by the functions below, and can be put together.
type Rules struct {
	forward []string // of frames that pass the switch
	before  []string // before it is known where they go; a reject is possible only here
}

// And joins two sets of rules.
func (r Rules) And(o Rules) Rules {
	return Rules{append(append([]string(nil), r.forward...), o.forward...), append(append([]string(nil), r.before...), o.before...)}
}

// Make starts a fault.
func (n *Net) Make(r Rules) (*Trouble, error) {
	n.mu.Lock()
	n.troubles++
	t := &Trouble{n, fmt.Sprintf("trouble%d", n.troubles)}
	n.mu.Unlock()
	script := fmt.Sprintf("table bridge %s {\n chain forward { type filter hook forward priority 0; policy accept;\n%s\n }\n chain before { type filter hook prerouting priority 0; policy accept;\n%s\n }\n}\n",
		t.table, strings.Join(r.forward, "\n"), strings.Join(r.before, "\n"))
	if err := n.inSwitch("nft -f - <<'EOF'\n" + script + "EOF"); err != nil {
		return nil, err
	}
	return t, nil
}

// End ends it. A second time does nothing.
func (t *Trouble) End() error {
	return t.net.inSwitch(fmt.Sprintf("nft 'table bridge %[1]s; delete table bridge %[1]s'", t.table))
}

// Hits tells how many frames met one of its rules.
func (t *Trouble) Hits() (int, error) {
	pid := strconv.Itoa(t.net.holder.PID)
	out, err := exec.Command("nsenter", "--net=/proc/"+pid+"/ns/net", "nft", "-j", "list", "table", "bridge", t.table).Output()
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

// OneWay drops what from sends to to, of such packets ("", or nft's words such as "ip protocol udp").
func OneWay(from, to *Machine, match string) Rules {
	return Rules{forward: []string{fmt.Sprintf("iifname %q oifname %q %s counter drop", from.port, to.port, match)}}
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

// Lossy drops so many percent of all frames.
func Lossy(percent int) Rules {
	return Rules{forward: []string{fmt.Sprintf("numgen random mod 100 < %d counter drop", percent)}}
}

// Resets answers so many in a thousand of the TCP packets that a machine sends with a reset: connections break all the time.
func Resets(m *Machine, perMille int) Rules {
	return Rules{before: []string{fmt.Sprintf("iifname %q ether type ip ip protocol tcp numgen random mod 1000 < %d counter reject with tcp reset", m.port, perMille)}}
}

// BlackHole drops what is larger than so many bytes from or to a machine, and tells nobody: a path with a smaller packet
// size than its ends believe.
func BlackHole(m *Machine, bytes int) Rules {
	return Rules{forward: []string{
		fmt.Sprintf("iifname %q meta length > %d counter drop", m.port, bytes),
		fmt.Sprintf("oifname %q meta length > %d counter drop", m.port, bytes),
	}}
}
