package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/gossip"
	"shoal/node/api"
	"shoal/node/pki"
	"shoal/runtime/step"
)

// membership is what a node must know to take part, besides its identity (pki) and its id (the raft directory). It lies
// in cluster.json, readable by root alone.
type membership struct {
	Cluster    string   `json:"cluster"`
	SealKey    []byte   `json:"sealKey"`
	GossipKeys [][]byte `json:"gossipKeys"`
	// Peers are addresses of other nodes as last known, to find the cluster again after everybody was off.
	Peers []string `json:"peers"`
	// Pool is where all containers of the cluster have their addresses.
	Pool netip.Prefix `json:"pool"`
	// Addr is where this node was last reached. A start at another one may be that of a copy, see checkMoved.
	Addr netip.AddrPort `json:"addr,omitzero"`
	// Founder has made the cluster but may not have written it to the log yet.
	Founder bool `json:"founder,omitempty"`
}

const (
	membershipFile = "cluster.json"
	raftDir        = "raft"
	identityDir    = "identity"
	joinTimeout    = 30 * time.Second
)

func (n *Node) path(elem ...string) string {
	return filepath.Join(append([]string{n.cfg.DataDir}, elem...)...)
}

// establish makes sure that this machine is a node of a cluster: of the one in its data directory, of the one that it
// is told to join, or else of one that it founds.
func (n *Node) establish(ctx context.Context) error {
	if err := os.MkdirAll(n.path(identityDir), 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := n.sweepHalfWritten(); err != nil {
		return err
	}
	id, fresh, err := consensus.LoadOrCreateID(n.path(raftDir))
	damage := damagedLog(err)
	if err != nil && damage == nil {
		return err
	}
	n.id = id
	m, err := loadMembership(n.path(membershipFile))
	if errors.Is(err, fs.ErrNotExist) && damage == nil {
		return n.comeIn(ctx)
	}
	if err != nil {
		return errors.Join(damage, err)
	}
	ident, err := pki.LoadIdentity(n.path(identityDir), nil)
	if err != nil {
		return fmt.Errorf("this node's identity cannot be read: %w; if it is lost, empty %s and join anew", err, n.cfg.DataDir)
	}
	if damage != nil {
		id = job.NodeID(ident.NodeID())
		n.id = id
	}
	if fresh || ident.NodeID() != string(id) {
		return job.Errorf(job.Conflict, "the log in %s is gone, but this machine was node %s (%s): a node that forgot what it acknowledged must not come back under its old id. "+
			"Empty %s, run `shoal node rm %s` on another node, and join anew with a token", n.path(raftDir), ident.Name(), ident.NodeID(), n.cfg.DataDir, ident.Name())
	}
	if len(n.cfg.Join) > 0 {
		n.log.Info("already a member of a cluster: --join and --token are not needed any more", "cluster", m.Cluster)
	}
	if err := n.sweepLeftovers(m.Founder); err != nil {
		return err
	}
	n.ident, n.member = ident, m
	if err := n.checkMoved(ctx); err != nil {
		return err
	}
	if damage != nil { // the log itself is read when it is opened
		return n.heal(ctx, damage)
	}
	return nil
}

// sweepLeftovers removes keys that a crash left behind after they had served.
func (n *Node) sweepLeftovers(founding bool) error {
	if err := removeIfThere(n.path(joiningKeyFile)); err != nil || founding {
		return err
	}
	return removeIfThere(n.path(foundingKeyFile))
}

// comeIn joins or founds a cluster, unless the directory has been part of one.
func (n *Node) comeIn(ctx context.Context) error {
	// The log is opened only once cluster.json is on disk.
	hasLog, err := holdsMoreThanID(n.path(raftDir))
	if err != nil {
		return err
	}
	if hasLog {
		return job.Errorf(job.Conflict, "%s is gone, but %s has the log of a cluster: restore the file, or empty %s and join anew with a token",
			n.path(membershipFile), n.path(raftDir), n.cfg.DataDir)
	}
	if len(n.cfg.Join) > 0 {
		return n.join(ctx)
	}
	if _, err := os.Stat(n.path(joiningKeyFile)); err == nil {
		return job.Errorf(job.Conflict, "this machine began to join a cluster and did not finish: start it with --join and --token again, or empty %s to begin a cluster of its own", n.cfg.DataDir)
	}
	return n.found()
}

// holdsMoreThanID tells whether a raft directory was ever used: a new one has the node's id and nothing else.
func holdsMoreThanID(dir string) (bool, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(files, func(f os.DirEntry) bool {
		return !strings.HasPrefix(f.Name(), "node-id") // its temporary file too
	}), nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkMoved refuses to run at a new address while this node answers at its old one: the data directory was copied, and
// two that hold the same log under one id would undo what the cluster agreed on.
func (n *Node) checkMoved(ctx context.Context) error {
	old := n.member.Addr
	if old == n.cfg.Advertise {
		return nil
	}
	if old.IsValid() {
		conn, err := dialTLS(ctx, n.cfg.Underlay, old.String(), n.ident.ClientTLS(pki.ALPNHTTP1, string(n.id)))
		if err == nil {
			_ = conn.Close()
			return job.Errorf(job.Conflict, "node %s (%s) runs at %s already: two machines must not share one data directory; empty this one's %s and join with a token and another --name",
				n.ident.Name(), n.id, old, n.cfg.DataDir)
		}
		n.log.Info("this node has a new address", "old", old, "new", n.cfg.Advertise)
	}
	n.member.Addr = n.cfg.Advertise
	return n.saveMembership()
}

// found makes a new cluster with this node alone. What it makes is written to the log once this node leads (record).
func (n *Node) found() error {
	cluster := randomHex(8)
	ca, err := pki.NewCA(cluster, n.wall())
	if err != nil {
		return err
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	csr, err := key.CSR(string(n.id))
	if err != nil {
		return err
	}
	cert, err := ca.SignNode(csr, string(n.id), n.cfg.Name, nil, n.wall(), 0)
	if err != nil {
		return err
	}
	if n.ident, err = pki.NewIdentity(key, cert, ca.CertPEM(), nil); err != nil {
		return err
	}
	sealKey, err := pki.NewSealKey()
	if err != nil {
		return err
	}
	gossipKey := make([]byte, gossip.KeySize)
	if _, err := rand.Read(gossipKey); err != nil {
		return err
	}
	n.member = membership{Cluster: cluster, SealKey: sealKey, GossipKeys: [][]byte{gossipKey}, Pool: n.cfg.Pool, Addr: n.cfg.Advertise, Founder: true}
	if err := n.saveIdentity(stepFoundIdentity); err != nil {
		return err
	}
	// The CA's key must survive a crash between here and its place in the log.
	sealed, err := pki.Seal(sealKey, ca.KeyPEM(), caKeyContext(cluster))
	if err != nil {
		return err
	}
	if err := writeFileAtomic(n.path(foundingKeyFile), sealed); err != nil {
		return err
	}
	if err := step.Reach(stepFoundKey); err != nil {
		return err
	}
	n.log.Info("founding a new cluster", "cluster", cluster, "node", n.cfg.Name, "id", n.id)
	if err := n.saveMembership(); err != nil {
		return err
	}
	return step.Reach(stepFounded)
}

func (n *Node) saveIdentity(then step.Name) error {
	if err := n.ident.Save(n.path(identityDir)); err != nil {
		return err
	}
	return step.Reach(then)
}

// foundingKeyFile holds the founder's sealed CA key until it is in the log.
const foundingKeyFile = "founding.key"

func caKeyContext(cluster string) []byte     { return []byte("ca key of cluster " + cluster) }
func gossipKeyContext(cluster string) []byte { return []byte("gossip key of cluster " + cluster) }

// record writes the founded cluster and its first node to the log. It runs on the founder while it leads, until done.
func (n *Node) record(ctx context.Context) error {
	if !n.member.Founder {
		return nil
	}
	if n.state.View().Cluster() == nil {
		sealedCA, err := os.ReadFile(n.path(foundingKeyFile))
		if err != nil {
			return fmt.Errorf("read the new cluster's CA key: %w", err)
		}
		var keys [][]byte
		for _, k := range n.member.GossipKeys {
			sealed, err := pki.Seal(n.member.SealKey, k, gossipKeyContext(n.member.Cluster))
			if err != nil {
				return err
			}
			keys = append(keys, sealed)
		}
		now := n.wall()
		c := job.Cluster{ID: n.member.Cluster, Created: now, Pool: n.member.Pool, SubnetBits: subnetBits, CACert: n.ident.CAPEM(), CAKey: sealedCA, GossipKeys: keys, Rules: n.state.Known()}
		if _, err := n.propose(ctx, state.InitCluster{Cluster: c, At: now}); err != nil {
			return err
		}
	}
	if n.state.View().Node(n.id) == nil {
		if _, err := n.propose(ctx, state.PutNode{Node: n.self(), At: n.wall()}); err != nil {
			return err
		}
	}
	return n.recorded()
}

// recorded notes that the cluster is in the log.
func (n *Node) recorded() error {
	n.memberMu.Lock()
	defer n.memberMu.Unlock()
	n.member.Founder = false
	if err := n.saveMembership(); err != nil {
		n.member.Founder = true
		return err
	}
	if err := step.Reach(stepRecorded); err != nil {
		return err
	}
	return removeIfThere(n.path(foundingKeyFile))
}

// self describes this node to the cluster.
func (n *Node) self() job.Node {
	info := n.machine.Info
	return job.Node{
		ID: n.id, Name: n.cfg.Name, Addr: n.cfg.Advertise, Labels: n.cfg.Labels, Voter: n.cfg.Voter, Version: n.cfg.Version, Rules: n.state.Known(),
		Capacity: info.Capacity, OS: info.OS, Arch: info.Arch, Kernel: info.Kernel,
		Attributes: n.attributes(), Generic: n.cfg.Generic, Overcommit: n.cfg.Overcommit, KeyPin: n.ident.Key().Pin().String(),
		LogLife: n.raft.Life(),
	}
}

// attributes are the machine's and this program's version.
func (n *Node) attributes() map[string]string {
	out := maps.Clone(n.machine.Info.Attributes)
	if out == nil {
		out = map[string]string{}
	}
	out["shoal.version"] = n.cfg.Version
	return out
}

// join asks the named nodes, one after the other, to take this machine in.
func (n *Node) join(ctx context.Context) error {
	token, err := pki.ParseToken(n.cfg.Token)
	if err != nil {
		return job.Errorf(job.Invalid, "--token: %w", err)
	}
	key, err := n.joiningKey()
	if err != nil {
		return err
	}
	csr, err := key.CSR(string(n.id))
	if err != nil {
		return err
	}
	self := job.Node{ID: n.id, Name: n.cfg.Name, Addr: n.cfg.Advertise, Labels: n.cfg.Labels, Voter: n.cfg.Voter, Version: n.cfg.Version, Rules: n.state.Known(), KeyPin: key.Pin().String()}
	req := api.JoinRequest{TokenID: token.ID, Secret: token.Secret, CSR: csr, Node: self}
	resp, err := n.askToJoin(ctx, token, req)
	if err != nil {
		return err
	}
	if err := pki.CheckFingerprint(resp.CA, token.CAFingerprint); err != nil {
		return job.Errorf(job.Denied, "join: the cluster that answered is not the token's: %w", err)
	}
	return n.joined(key, resp)
}

// joined keeps what the cluster answered.
func (n *Node) joined(key pki.Key, resp api.JoinResponse) (err error) {
	if n.ident, err = pki.NewIdentity(key, resp.Cert, resp.CA, nil); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if err := n.saveIdentity(stepJoinIdentity); err != nil {
		return err
	}
	n.member = membership{Cluster: resp.Cluster, SealKey: resp.SealKey, GossipKeys: resp.GossipKeys, Peers: resp.Peers, Pool: resp.Pool, Addr: n.cfg.Advertise}
	if err := n.saveMembership(); err != nil {
		return err
	}
	n.log.Info("joined", "cluster", resp.Cluster, "node", n.cfg.Name, "id", n.id)
	if err := step.Reach(stepJoined); err != nil {
		return err
	}
	return removeIfThere(n.path(joiningKeyFile))
}

// joiningKeyFile holds the key of a machine that asked to join until it has its answer on disk: whatever happens in
// between, it asks again as the same one, and the cluster knows it by the key.
const joiningKeyFile = "joining.key"

func (n *Node) joiningKey() (pki.Key, error) {
	path := n.path(joiningKeyFile)
	b, err := os.ReadFile(path)
	if err == nil {
		key, err := pki.ParseKey(b)
		if err != nil {
			return pki.Key{}, fmt.Errorf("read %s: %w; remove the file to join with a new key", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return pki.Key{}, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return pki.Key{}, err
	}
	if err := writeFileAtomic(path, key.PEM()); err != nil {
		return pki.Key{}, err
	}
	return key, step.Reach(stepJoiningKey)
}

// askToJoin tries the addresses until one decides; a refusal is final, silence is not.
func (n *Node) askToJoin(ctx context.Context, token pki.Token, req api.JoinRequest) (api.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	for {
		var last error
		for _, addr := range n.cfg.Join {
			resp, err := n.joinThrough(ctx, addr, token, req)
			if err == nil {
				return resp, nil
			}
			if k := job.KindOf(err); k != job.Unavailable && k != job.Internal {
				return resp, job.Errorf(k, "join %s: %w", addr, err)
			}
			last = fmt.Errorf("join %s: %w", addr, err)
			n.log.Warn("cannot join yet", "via", addr, "error", err)
		}
		if !sleep(ctx, time.Second) {
			return api.JoinResponse{}, job.Errorf(job.Unavailable, "%w (tried for %v; is the agent there running, and is its port open?)", last, joinTimeout)
		}
	}
}

func (n *Node) joinThrough(ctx context.Context, addr string, token pki.Token, req api.JoinRequest) (api.JoinResponse, error) {
	conf := pki.BootstrapTLS(token.CAFingerprint, pki.ALPNHTTP1, nil)
	// A handshake of its own first: a server of another cluster is a refusal, not something to try again.
	conn, err := dialTLS(ctx, n.cfg.Underlay, addr, conf)
	var netErr net.Error
	switch {
	case err == nil:
		_ = conn.Close()
	case errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		return api.JoinResponse{}, job.Errorf(job.Unavailable, "%w", err)
	default:
		return api.JoinResponse{}, job.Errorf(job.Denied, "%w", err)
	}
	t := newTransport(func(ctx context.Context, addr string) (net.Conn, error) {
		return dialTLS(ctx, n.cfg.Underlay, addr, conf)
	})
	defer t.CloseIdleConnections()
	return api.NewClient(addr, t).Join(ctx, req)
}

func loadMembership(path string) (membership, error) {
	var m membership
	b, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read %s: %w", path, err)
	}
	return m, nil
}

func (n *Node) saveMembership() error {
	b, err := json.MarshalIndent(n.member, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomic(n.path(membershipFile), b)
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
