package gameday

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	// tableName is our one table, in family inet. It is written as a whole and removed as a whole.
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

// table writes our table in one transaction: a packet sees the old one or the new one.
type table struct {
	conn  *nftables.Conn
	t     *nftables.Table
	err   error
	loss  int // percent of what matches; 0: all
	chain *nftables.Chain
}

// replaceTable writes the table with what rules adds to it.
func replaceTable(rules func(*table)) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	b := &table{conn: conn, t: &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}}
	conn.AddTable(b.t) // so that the deletion succeeds when there was none
	conn.DelTable(b.t)
	conn.AddTable(b.t)
	rules(b)
	if b.err != nil {
		return fmt.Errorf("build nftables table %s: %w", tableName, b.err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", tableName, err)
	}
	return nil
}

// removeTable takes it away if it is there.
func removeTable() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.DelTable(conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}))
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", tableName, err)
	}
	return nil
}

// tableThere tells whether there is one.
func tableThere() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }), err
}

// dropped is what the rules have dropped so far.
func dropped() (packets uint64, err error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"input", "output", "forward"} {
		rules, err := conn.GetRules(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}, &nftables.Chain{Name: name})
		if err != nil {
			continue // this one is not there
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Counter); ok {
					packets += c.Packets
				}
			}
		}
	}
	return packets, nil
}

// cutNodes drops what this node and its peers say to each other on shoal's port, and nothing else.
func cutNodes(b *table, t Target, deafOnly bool) {
	var v4, v6 []netip.Addr
	ports := []uint16{t.Self.Port()}
	for _, p := range t.Peers {
		if a := p.Addr().Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
		if !slices.Contains(ports, p.Port()) {
			ports = append(ports, p.Port())
		}
	}
	if len(ports) > maxPorts {
		b.err = fmt.Errorf("the other nodes listen on %d different ports, at most %d can be cut", len(ports), maxPorts)
		return
	}
	for _, family := range []struct {
		proto        byte
		addrs        []netip.Addr
		from, to     uint32
		typ          nftables.SetDatatype
		name         string
		addressBytes uint32
	}{
		{unix.NFPROTO_IPV4, v4, saddr4, daddr4, nftables.TypeIPAddr, "peers4", 4},
		{unix.NFPROTO_IPV6, v6, saddr6, daddr6, nftables.TypeIP6Addr, "peers6", 16},
	} {
		if len(family.addrs) == 0 {
			continue
		}
		set := b.set(family.name, family.typ, family.addrs)
		match := func(offset uint32) []expr.Any {
			return slices.Concat(nfproto(family.proto), []expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: family.addressBytes},
				&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
			})
		}
		in := b.base("input", nftables.ChainHookInput)
		for _, port := range ports {
			b.drop(in, match(family.from), port)
		}
		if deafOnly {
			continue
		}
		out := b.base("output", nftables.ChainHookOutput)
		for _, port := range ports {
			b.drop(out, match(family.to), port)
		}
	}
}

// cutContainers drops what this node's containers and those of other nodes say to each other.
func cutContainers(b *table, t Target) {
	fwd := b.base("forward", nftables.ChainHookForward)
	for _, way := range [][2]uint32{{saddr4, daddr4}, {daddr4, saddr4}} {
		b.rule(fwd, nfproto(unix.NFPROTO_IPV4), within(way[0], t.Subnet, expr.CmpOpEq), within(way[1], t.Pool, expr.CmpOpEq), within(way[1], t.Subnet, expr.CmpOpNeq))
	}
}

func (b *table) set(name string, typ nftables.SetDatatype, addrs []netip.Addr) *nftables.Set {
	set := &nftables.Set{Table: b.t, Name: name, KeyType: typ}
	b.err = errors.Join(b.err, b.conn.AddSet(set, nil))
	for chunk := range slices.Chunk(addrs, elementsPerMessage) {
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
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRef(priority), Policy: &accept})
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
	b.conn.AddRule(&nftables.Rule{Table: b.t, Chain: c, Exprs: exprs})
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
