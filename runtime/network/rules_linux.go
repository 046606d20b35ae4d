package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	// tableName is our one table, in family ip.
	tableName = "shoal"
	// elementsPerMessage keeps a message's element list under the 64 KiB of a netlink attribute; one takes some 60 bytes.
	elementsPerMessage = 500
	// ctStatusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
	ctStatusDNAT = 1 << 5
	dnsPort      = 53
)

// Registers: 1 is the first of 16 bytes, reg32+k the k-th of 4 bytes within it. A key of several fields fills them in turn.
const (
	reg1  = 1
	reg32 = 8 // NFT_REG32_00
)

// binding is a published port and where it leads.
type binding struct {
	Port
	to netip.Addr
}

// ruleSet is all that the table depends on.
type ruleSet struct {
	bridge       string
	subnet, pool netip.Prefix
	peers        []netip.Addr
	bindings     []binding
}

// rules takes a picture of what the table should say.
func (n *Network) rules() ruleSet {
	n.mu.Lock()
	defer n.mu.Unlock()
	rs := ruleSet{bridge: n.cfg.Bridge, subnet: n.subnet, pool: n.pool(n.subnet)}
	for _, p := range n.peers {
		rs.peers = append(rs.peers, p.Address)
	}
	for _, ls := range n.leases.byID {
		for _, p := range ls.Ports {
			rs.bindings = append(rs.bindings, binding{Port: p, to: ls.Addr})
		}
	}
	return rs
}

// applyRules replaces the table by what is true now, in one transaction: a packet sees the old table or the new one.
func (n *Network) applyRules() error {
	n.applyMu.Lock()
	defer n.applyMu.Unlock()
	return n.replaceTableLocked(n.rules())
}

// replaceTableLocked needs applyMu.
func (n *Network) replaceTableLocked(rs ruleSet) error {
	n.written = nil
	if err := n.home.replaceTable(rs); err != nil {
		return err
	}
	n.written = rs.contents()
	return nil
}

// applySets brings only the contents of sets and maps up to date, also in one transaction. That is all that attaching,
// detaching and new peers change, and adding alone takes 0.1 ms: whenever something is taken out of nftables, the kernel
// lets all processors pass by, before the next change at the latest (13 ms on 2 cores, kernel 6.18). If the table is not
// what we left, it is replaced.
func (n *Network) applySets() error {
	n.applyMu.Lock()
	defer n.applyMu.Unlock()
	rs := n.rules()
	if n.written == nil {
		return n.replaceTableLocked(rs)
	}
	err := n.home.changeSets(rs, n.written)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
		return n.replaceTableLocked(rs)
	}
	if err == nil {
		n.written = rs.contents()
	}
	return err
}

// removeRules deletes the table if it is there.
func (n *Network) removeRules() error {
	n.applyMu.Lock()
	defer n.applyMu.Unlock()
	n.written = nil
	conn, err := n.home.nft()
	if err != nil {
		return err
	}
	t := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	conn.DelTable(t)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", tableName, err)
	}
	return nil
}

// hasRules says whether the table is still there.
func (n *Network) hasRules() (bool, error) {
	conn, err := n.home.nft()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == tableName {
			return true, nil
		}
	}
	return false, nil
}

func (h home) nft() (*nftables.Conn, error) {
	var opts []nftables.ConnOption
	if h.foreign {
		opts = append(opts, nftables.WithNetNSFd(int(h.ns)))
	}
	conn, err := nftables.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
}

// nftMu guards the nftables module's counter of set ids, which is a plain package variable (v0.3.0, set.go).
var nftMu sync.Mutex

// replaceTable writes the table. Adding it before deleting makes the deletion succeed when there was none.
func (h home) replaceTable(rs ruleSet) error {
	conn, err := h.nft()
	if err != nil {
		return err
	}
	nftMu.Lock()
	defer nftMu.Unlock()
	b := newTableBuilder(conn, rs)
	conn.AddTable(b.table)
	conn.DelTable(b.table)
	conn.AddTable(b.table)
	for i, c := range rs.contents() {
		b.err = errors.Join(b.err, conn.AddSet(b.sets()[i], nil))
		b.add(b.sets()[i], c.without(nil))
	}
	b.chains()
	if b.err != nil {
		return fmt.Errorf("build nftables table %s: %w", tableName, b.err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("replace nftables table %s: %w", tableName, err)
	}
	return nil
}

// changeSets makes the sets of the table that is there hold what rs says, knowing that they hold old.
func (h home) changeSets(rs ruleSet, old []contents) error {
	conn, err := h.nft()
	if err != nil {
		return err
	}
	b := newTableBuilder(conn, rs)
	for i, want := range rs.contents() {
		b.remove(b.sets()[i], old[i].without(want))
		b.add(b.sets()[i], want.without(old[i]))
	}
	if b.err != nil {
		return fmt.Errorf("build sets of nftables table %s: %w", tableName, b.err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change sets of nftables table %s: %w", tableName, err)
	}
	return nil
}

// contents is what one set holds: keys with their values, which are empty in a set that is no map.
type contents map[string]string

// without lists what c holds and other does not, or not with the same value.
func (c contents) without(other contents) []nftables.SetElement {
	var elements []nftables.SetElement
	for k, v := range c {
		if w, ok := other[k]; !ok || v != w {
			elements = append(elements, nftables.SetElement{Key: []byte(k), Val: []byte(v)})
		}
	}
	return elements
}

// contents returns what the sets of a tableBuilder hold, in the order of its sets.
func (rs ruleSet) contents() []contents {
	all, one, peers := contents{}, contents{}, contents{}
	for _, p := range rs.bindings {
		val := concat(p.to.AsSlice(), binaryutil.BigEndian.PutUint16(p.ContainerPort))
		proto := []byte{protocolNumber(p.Protocol)}
		port := binaryutil.BigEndian.PutUint16(p.HostPort)
		if p.wildcard() {
			all[string(concat(proto, port))] = string(val)
		} else {
			one[string(concat(p.HostIP.AsSlice(), proto, port))] = string(val)
		}
	}
	for _, a := range rs.peers {
		peers[string(a.AsSlice())] = ""
	}
	return []contents{all, one, peers}
}

// tableBuilder writes one table into a batch. The first error stays in err.
type tableBuilder struct {
	conn  *nftables.Conn
	rs    ruleSet
	table *nftables.Table
	// anyAddr maps protocol and port, oneAddr host address, protocol and port, to a container's address and port.
	anyAddr, oneAddr, peers *nftables.Set
	err                     error
}

func newTableBuilder(conn *nftables.Conn, rs ruleSet) *tableBuilder {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	target := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	return &tableBuilder{
		conn: conn, rs: rs, table: table,
		anyAddr: &nftables.Set{Table: table, Name: "published", IsMap: true, Concatenation: true, DataType: target,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)},
		oneAddr: &nftables.Set{Table: table, Name: "published_at", IsMap: true, Concatenation: true, DataType: target,
			KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)},
		peers: &nftables.Set{Table: table, Name: "peers", KeyType: nftables.TypeIPAddr},
	}
}

func (b *tableBuilder) sets() []*nftables.Set { return []*nftables.Set{b.anyAddr, b.oneAddr, b.peers} }

func (b *tableBuilder) add(s *nftables.Set, elements []nftables.SetElement) {
	for chunk := range slices.Chunk(elements, elementsPerMessage) {
		b.err = errors.Join(b.err, b.conn.SetAddElements(s, chunk))
	}
}

func (b *tableBuilder) remove(s *nftables.Set, elements []nftables.SetElement) {
	for chunk := range slices.Chunk(elements, elementsPerMessage) {
		b.err = errors.Join(b.err, b.conn.SetDeleteElements(s, chunk))
	}
}

// chains writes what DESIGN.md shows in nft's own words.
func (b *tableBuilder) chains() {
	rs := b.rs
	loopback := netip.MustParsePrefix("127.0.0.0/8")

	guard := b.base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	b.rule(guard, iif(expr.CmpOpEq, rs.bridge), daddr(expr.CmpOpEq, loopback), verdict(expr.VerdictDrop))

	publish := b.conn.AddChain(&nftables.Chain{Name: "publish", Table: b.table})
	b.rule(publish, daddr(expr.CmpOpEq, netip.PrefixFrom(gateway(rs.subnet), 32)), dport(reg1),
		[]expr.Any{cmp(expr.CmpOpEq, binaryutil.BigEndian.PutUint16(dnsPort))}, verdict(expr.VerdictReturn))
	b.rule(publish, load4(16, reg32), l4proto(reg32+1), dport(reg32+2), dnat(b.oneAddr))
	b.rule(publish, l4proto(reg32), dport(reg32+1), dnat(b.anyAddr))

	// Both ways in: from a wire or a container, and from the host itself.
	pre := b.base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	b.rule(pre, toLocal(), jump(publish))
	out := b.base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	b.rule(out, toLocal(), jump(publish))

	post := b.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	b.rule(post, saddr(expr.CmpOpEq, rs.subnet), daddr(expr.CmpOpNeq, rs.pool), oif(expr.CmpOpNeq, rs.bridge), masquerade())
	b.rule(post, oif(expr.CmpOpEq, rs.bridge), saddr(expr.CmpOpEq, loopback), masquerade())
	b.rule(post, oif(expr.CmpOpEq, rs.bridge), saddr(expr.CmpOpEq, rs.subnet), ctStatus(ctStatusDNAT), masquerade())

	fwd := b.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	b.rule(fwd, oif(expr.CmpOpNeq, rs.bridge), verdict(expr.VerdictAccept))
	b.rule(fwd, ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	b.rule(fwd, ctStatus(ctStatusDNAT), verdict(expr.VerdictAccept))
	b.rule(fwd, saddr(expr.CmpOpEq, rs.pool), verdict(expr.VerdictAccept))
	b.rule(fwd, load4(12, reg1), []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: b.peers.Name, SetID: b.peers.ID}}, verdict(expr.VerdictAccept))
	b.rule(fwd, verdict(expr.VerdictDrop))
}

func (b *tableBuilder) base(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table, Type: typ, Hooknum: hook, Priority: prio, Policy: &accept})
}

func (b *tableBuilder) rule(c *nftables.Chain, parts ...[]expr.Any) {
	var exprs []expr.Any
	for _, p := range parts {
		exprs = append(exprs, p...)
	}
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: exprs})
}

// concat joins the fields of a key or value, each padded to 4 bytes.
func concat(fields ...[]byte) []byte {
	var out []byte
	for _, f := range fields {
		out = append(out, f...)
		for len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return out
}

func protocolNumber(p string) byte {
	if p == UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func cmp(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: reg1, Data: data}
}

func ifname(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, cmp(op, padded)}
}

func iif(op expr.CmpOp, name string) []expr.Any { return ifname(expr.MetaKeyIIFNAME, op, name) }
func oif(op expr.CmpOp, name string) []expr.Any { return ifname(expr.MetaKeyOIFNAME, op, name) }

// load4 reads 4 bytes of the IPv4 header: 12 is the source, 16 the destination.
func load4(offset, reg uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
}

func inPrefix(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	p = p.Masked()
	mask := ipNet(p).Mask
	return append(load4(offset, reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		cmp(op, p.Addr().AsSlice()))
}

func saddr(op expr.CmpOp, p netip.Prefix) []expr.Any { return inPrefix(12, op, p) }
func daddr(op expr.CmpOp, p netip.Prefix) []expr.Any { return inPrefix(16, op, p) }

func l4proto(reg uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}}
}

// dport is the destination port of TCP and UDP alike.
func dport(reg uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

// dnat sends the packet where the map says; a packet without an entry goes on to the next rule.
func dnat(m *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg1, RegProtoMin: reg32 + 1, Specified: true},
	}
}

// toLocal matches packets to any address of this machine.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true},
		cmp(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		cmp(expr.CmpOpNeq, make([]byte, 4)),
	}
}

func ctState(bits uint32) []expr.Any  { return ctBits(expr.CtKeySTATE, bits) }
func ctStatus(bits uint32) []expr.Any { return ctBits(expr.CtKeySTATUS, bits) }

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
func masquerade() []expr.Any                   { return []expr.Any{&expr.Masq{}} }

func jump(c *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}
