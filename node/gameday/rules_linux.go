package gameday

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	// tableName is our one table, in families inet and netdev. It is written as a whole and removed as a whole.
	tableName = "shoal_chaos"
	// elementsPerMessage keeps a message's element list under the 64 KiB of a netlink attribute.
	elementsPerMessage = 500
	// before other filters (nf_ip_priority: raw is -300, filter 0), so that what we drop was seen by none of them.
	priority = -250
	maxPorts = 16 // different ports of the other nodes: rules are made for each
)

// Where addresses and ports lie in their headers.
const (
	saddr4, daddr4 = 12, 16
	saddr6, daddr6 = 8, 24
	sport, dport   = 0, 2
)

// table writes our tables in one transaction: a packet sees the old ones or the new ones. What comes in is dropped in family
// inet. What goes out is dropped in family netdev, where it vanishes as on a cut wire: in inet's output the sender would be
// told (EPERM), and whoever is told does not take the other for silent. Kernels before 5.16 have only that.
type table struct {
	conn   *nftables.Conn
	inet   *nftables.Table
	netdev *nftables.Table // nil: what goes out is dropped in inet's output
	err    error
	loss   int // percent of what matches; 0: all
}

// maxDevices bounds the interfaces through which the other nodes are reached.
const maxDevices = 16

var families = []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyNetdev}

func newTable(conn *nftables.Conn, family nftables.TableFamily) *nftables.Table {
	t := &nftables.Table{Family: family, Name: tableName}
	conn.AddTable(t) // so that the deletion succeeds when there was none
	conn.DelTable(t)
	return conn.AddTable(t)
}

// replaceTable writes the tables with what rules adds to them.
func replaceTable(rules func(*table)) error {
	err := writeTable(rules, true)
	if err != nil {
		err = writeTable(rules, false)
	}
	return err
}

func writeTable(rules func(*table), egress bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	b := &table{conn: conn, inet: newTable(conn, nftables.TableFamilyINet)}
	if egress {
		b.netdev = newTable(conn, nftables.TableFamilyNetdev)
	}
	rules(b)
	if b.err != nil {
		return fmt.Errorf("build nftables table %s: %w", tableName, b.err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", tableName, err)
	}
	return nil
}

// removeTable takes them away if they are there.
func removeTable() error {
	var errs []error
	for _, family := range families {
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		there, err := conn.ListTablesOfFamily(family)
		if err != nil && family == nftables.TableFamilyNetdev {
			continue // this kernel has no such family
		}
		if err == nil && slices.ContainsFunc(there, func(t *nftables.Table) bool { return t.Name == tableName }) {
			conn.DelTable(&nftables.Table{Family: family, Name: tableName})
			err = conn.Flush()
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete nftables table %s: %w", tableName, err))
		}
	}
	return errors.Join(errs...)
}

// dropped is what the rules have dropped so far.
func dropped() (packets uint64, err error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, err
	}
	for _, family := range families {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			continue // none of that family
		}
		for _, c := range chains {
			if c.Table.Name != tableName {
				continue
			}
			rules, err := conn.GetRules(c.Table, c)
			if err != nil {
				return 0, err
			}
			for _, r := range rules {
				for _, e := range r.Exprs {
					if n, ok := e.(*expr.Counter); ok {
						packets += n.Packets
					}
				}
			}
		}
	}
	return packets, nil
}

// addresses are those of the other nodes of one IP version, and how packets of it are told.
type addresses struct {
	list      []netip.Addr
	name      string // of the set
	typ       nftables.SetDatatype
	bytes     uint32
	from, to  uint32 // offsets
	nfproto   byte
	ethertype uint16
}

// cutNodes drops what this node and its peers say to each other on shoal's port, and nothing else.
func cutNodes(b *table, t Target, deafOnly bool) {
	v4 := addresses{name: "peers4", typ: nftables.TypeIPAddr, bytes: 4, from: saddr4, to: daddr4, nfproto: unix.NFPROTO_IPV4, ethertype: unix.ETH_P_IP}
	v6 := addresses{name: "peers6", typ: nftables.TypeIP6Addr, bytes: 16, from: saddr6, to: daddr6, nfproto: unix.NFPROTO_IPV6, ethertype: unix.ETH_P_IPV6}
	ports := []uint16{t.Self.Port()}
	for _, p := range t.Peers {
		if a := p.Addr().Unmap(); a.Is4() {
			v4.list = append(v4.list, a)
		} else {
			v6.list = append(v6.list, a)
		}
		if !slices.Contains(ports, p.Port()) {
			ports = append(ports, p.Port())
		}
	}
	if len(ports) > maxPorts {
		b.err = fmt.Errorf("the other nodes listen on %d different ports, at most %d can be cut", len(ports), maxPorts)
		return
	}
	var out []*nftables.Chain
	if !deafOnly {
		out = b.outgoing(t.Peers)
	}
	in := b.base("input", nftables.ChainHookInput)
	for _, v := range []addresses{v4, v6} {
		if len(v.list) == 0 {
			continue
		}
		sets := map[*nftables.Table]*nftables.Set{}
		cut := func(c *nftables.Chain, offset uint32) {
			set := sets[c.Table]
			if set == nil {
				set = b.set(c.Table, v)
				sets[c.Table] = set
			}
			who := slices.Concat(b.version(c.Table, v), []expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: v.bytes},
				&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
			})
			for _, port := range ports {
				b.drop(c, who, port)
			}
		}
		cut(in, v.from)
		for _, c := range out {
			cut(c, v.to)
		}
	}
}

// outgoing makes the chains that see what is sent to the peers.
func (b *table) outgoing(peers []netip.AddrPort) []*nftables.Chain {
	if b.netdev == nil {
		return []*nftables.Chain{b.base("output", nftables.ChainHookOutput)}
	}
	devices, err := devicesTo(peers)
	if err != nil {
		b.err = errors.Join(b.err, err)
	}
	var out []*nftables.Chain
	accept := nftables.ChainPolicyAccept
	for i, dev := range devices {
		out = append(out, b.conn.AddChain(&nftables.Chain{Name: fmt.Sprintf("egress%d", i), Table: b.netdev, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookEgress, Priority: nftables.ChainPriorityRef(0), Policy: &accept, Device: dev}))
	}
	return out
}

// devicesTo finds the interfaces through which the peers are reached, by the addresses that packets to them would come from.
// Nothing is sent.
func devicesTo(peers []netip.AddrPort) ([]string, error) {
	sources := map[netip.Addr]bool{}
	for _, p := range peers {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p))
		if err != nil {
			continue // no way leads there
		}
		if a, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
			sources[a.Addr().Unmap().WithZone("")] = true
		}
		_ = conn.Close()
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it is gone
		}
		if slices.ContainsFunc(addrs, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && sources[p.Addr().Unmap()]
		}) {
			out = append(out, i.Name)
		}
	}
	if len(out) == 0 || len(out) > maxDevices {
		return nil, fmt.Errorf("%d interfaces lead to the other nodes, 1 to %d can be cut", len(out), maxDevices)
	}
	return out, nil
}

// version matches packets of an IP version.
func (b *table) version(t *nftables.Table, v addresses) []expr.Any {
	if t.Family == nftables.TableFamilyINet {
		return nfproto(v.nfproto)
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(v.ethertype)}}
}

// cutContainers drops what this node's containers and those of other nodes say to each other.
func cutContainers(b *table, t Target) {
	fwd := b.base("forward", nftables.ChainHookForward)
	for _, way := range [][2]uint32{{saddr4, daddr4}, {daddr4, saddr4}} {
		b.rule(fwd, nfproto(unix.NFPROTO_IPV4), within(way[0], t.Subnet, expr.CmpOpEq), within(way[1], t.Pool, expr.CmpOpEq), within(way[1], t.Subnet, expr.CmpOpNeq))
	}
}

func (b *table) set(t *nftables.Table, v addresses) *nftables.Set {
	set := &nftables.Set{Table: t, Name: v.name, KeyType: v.typ}
	b.err = errors.Join(b.err, b.conn.AddSet(set, nil))
	for chunk := range slices.Chunk(v.list, elementsPerMessage) {
		var elements []nftables.SetElement
		for _, a := range chunk {
			elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
		}
		b.err = errors.Join(b.err, b.conn.SetAddElements(set, elements))
	}
	return set
}

func (b *table) base(name string, hook *nftables.ChainHook) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.inet, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRef(priority), Policy: &accept})
}

// drop is two rules for each of TCP and UDP: to the port and from it.
func (b *table) drop(c *nftables.Chain, who []expr.Any, port uint16) {
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, offset := range []uint32{sport, dport} {
			b.rule(c, who, []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
			})
		}
	}
}

func (b *table) rule(c *nftables.Chain, parts ...[]expr.Any) {
	exprs := slices.Concat(parts...)
	if b.loss > 0 {
		exprs = append(exprs, &expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(b.loss))})
	}
	exprs = append(exprs, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
	b.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs})
}

func nfproto(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

func within(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := make([]byte, 4)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}
