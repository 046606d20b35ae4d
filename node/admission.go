package node

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
	"shoal/node/pki"
	"shoal/runtime/step"
)

// maxTokenTTL bounds a join token's life; who needs one for longer makes a new one.
const maxTokenTTL = 365 * 24 * time.Hour

// CreateToken makes a join token; only its hash enters the log.
func (n *Node) CreateToken(ctx context.Context, r api.TokenRequest) (api.TokenCreated, error) {
	if r.TTL == 0 {
		r.TTL = time.Hour
	}
	if r.TTL < 0 || r.TTL > maxTokenTTL || r.MaxUses < 0 {
		return api.TokenCreated{}, job.Errorf(job.Invalid, "token: a life of %v for %d uses: it takes up to %v and a positive number, or 0 for no limit of uses", r.TTL, r.MaxUses, maxTokenTTL)
	}
	t, err := pki.NewToken(n.ident.Fingerprint())
	if err != nil {
		return api.TokenCreated{}, err
	}
	now := n.wall()
	stored := job.Token{ID: t.ID, Verifier: t.Verifier(), Created: now, Expires: now.Add(r.TTL), MaxUses: r.MaxUses}
	if _, err := n.propose(ctx, state.PutToken{Token: stored, At: now}); err != nil {
		return api.TokenCreated{}, err
	}
	stored.Verifier = nil
	join := "shoal agent --join " + n.cfg.Advertise.String() + " --token " + t.String()
	return api.TokenCreated{Token: stored, Secret: t.String(), Join: join}, nil
}

// Tokens lists join tokens without anything of their secrets.
func (n *Node) Tokens(context.Context) ([]job.Token, error) {
	out := []job.Token{}
	for _, t := range n.state.View().Tokens() {
		c := *t
		c.Verifier = nil
		out = append(out, c)
	}
	return out, nil
}

// RemoveToken revokes a join token.
func (n *Node) RemoveToken(ctx context.Context, id string) error {
	_, err := n.propose(ctx, state.RemoveToken{ID: id, At: n.wall()})
	return err
}

// Join takes a machine in that shows a token. All that can be refused is refused before anything changes, and joins
// are taken one at a time so that this stays true.
func (n *Node) Join(ctx context.Context, r api.JoinRequest) (api.JoinResponse, error) {
	// Before anything else of a stranger's is looked at, and without making anybody wait.
	if err := checkToken(n.state.View(), r); err != nil {
		return api.JoinResponse{}, err
	}
	select { // the one before may wait for the log for as long as its own request lives
	case n.joinTurn <- struct{}{}:
		defer func() { <-n.joinTurn }()
	case <-ctx.Done():
		return api.JoinResponse{}, job.Errorf(job.Unavailable, "join: another machine's join has not ended: %w", ctx.Err())
	}
	view := n.state.View()
	pin, err := pinOfCSR(r.CSR)
	if err != nil {
		return api.JoinResponse{}, err
	}
	r.Node.KeyPin = pin
	if err := checkJoiner(view, r, n.wall()); err != nil {
		return api.JoinResponse{}, err
	}
	cert, err := n.sign(r.CSR, r.Node.ID, r.Node.Name)
	if err != nil {
		return api.JoinResponse{}, err
	}
	if known := view.Node(r.Node.ID); known == nil { // else: the same machine asks again because the answer was lost
		if _, err := n.propose(ctx, useOf(r, n.wall())); err != nil {
			return api.JoinResponse{}, err
		}
		if _, err := n.propose(ctx, state.PutNode{Node: r.Node, At: n.wall()}); err != nil {
			return api.JoinResponse{}, err
		}
	}
	n.log.Info("node joined", "node", r.Node.Name, "id", r.Node.ID, "addr", r.Node.Addr, "token", r.TokenID)
	resp := api.JoinResponse{Cluster: n.member.Cluster, CA: n.ident.CAPEM(), Cert: cert, GossipKeys: n.pool.Keys(), SealKey: n.member.SealKey, Pool: n.member.Pool, Index: n.state.View().Index()}
	for _, node := range n.state.View().Nodes() {
		if node.ID != r.Node.ID {
			resp.Peers = append(resp.Peers, node.Addr.String())
		}
	}
	return resp, nil
}

// useOf counts a join once, however often its machine asks. With another token it is another use: a leader may have been
// lost between this and what makes the machine a member, and the first token be used up or gone since.
func useOf(r api.JoinRequest, now time.Time) state.UseToken {
	return state.UseToken{ID: r.TokenID, Node: r.Node.ID, Key: "join-" + string(r.Node.ID) + "-" + r.TokenID, At: now}
}

func checkToken(view *state.View, r api.JoinRequest) error {
	t := view.Token(r.TokenID)
	if t == nil || !pki.CheckSecret(t.Verifier, r.TokenID, r.Secret) {
		return job.Errorf(job.Denied, "the token is not known to this cluster: it may have been removed; make a new one with `shoal token create`")
	}
	return nil
}

// checkJoiner refuses what must not come in. The token is checked first: a stranger learns nothing about the cluster.
func checkJoiner(view *state.View, r api.JoinRequest, now time.Time) error {
	if err := checkToken(view, r); err != nil {
		return err
	}
	t := view.Token(r.TokenID)
	known := view.Node(r.Node.ID)
	again := known != nil && known.KeyPin == r.Node.KeyPin
	switch {
	case !t.Expires.IsZero() && now.After(t.Expires):
		return job.Errorf(job.Denied, "the token expired at %s; make a new one with `shoal token create`", t.Expires.UTC().Format(time.RFC3339))
	case t.MaxUses > 0 && t.Uses >= t.MaxUses && !again:
		return job.Errorf(job.Denied, "the token was for %d use(s) and is used up; make a new one with `shoal token create`", t.MaxUses)
	case known != nil && !again:
		return job.Errorf(job.Conflict, "a node with id %s is a member already (%s): two machines must not share one data directory; empty this one's and join again", r.Node.ID, known.Name)
	case !validName.MatchString(r.Node.Name):
		return job.Errorf(job.Invalid, "node name %q: letters, digits, dots, dashes and underscores, at most 63; give --name", r.Node.Name)
	case !validName.MatchString(string(r.Node.ID)):
		return job.Errorf(job.Invalid, "node %s: %q is not a node's id", r.Node.Name, r.Node.ID)
	case !r.Node.Addr.IsValid() || r.Node.Addr.Port() == 0 || r.Node.Addr.Addr().IsUnspecified():
		return job.Errorf(job.Invalid, "node %s: %v is not an address that others can dial; give --advertise", r.Node.Name, r.Node.Addr)
	}
	if err := view.CheckRules(r.Node); err != nil {
		return err
	}
	if same := view.NodeByName(r.Node.Name); same != nil && same.ID != r.Node.ID {
		return job.Errorf(job.Conflict, "the name %q is taken by node %s at %s; give this one another with --name, or remove that one with `shoal node rm %s`", r.Node.Name, same.ID, same.Addr, r.Node.Name)
	}
	for _, other := range view.Nodes() {
		if other.Addr == r.Node.Addr && other.ID != r.Node.ID && other.State == job.NodeReady {
			return job.Errorf(job.Conflict, "the address %s is node %s's; give this one another with --advertise", other.Addr, other.Name)
		}
	}
	return nil
}

func pinOfCSR(csrPEM []byte) (string, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil {
		return "", job.Errorf(job.Invalid, "join: the certificate request is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return "", job.Errorf(job.Invalid, "join: the certificate request is damaged")
	}
	return pki.Pin(sha256.Sum256(csr.RawSubjectPublicKeyInfo)).String(), nil
}

// sign makes a node's certificate with the CA's key from the log.
func (n *Node) sign(csr []byte, id job.NodeID, name string) ([]byte, error) {
	c := n.state.View().Cluster()
	if c == nil {
		return nil, job.Errorf(job.Unavailable, "the cluster is still being made; try again")
	}
	key, err := pki.Open(n.member.SealKey, c.CAKey, caKeyContext(c.ID))
	if err != nil {
		return nil, job.Errorf(job.Internal, "open the CA's key: %w", err)
	}
	ca, err := pki.LoadCA(c.CACert, key)
	if err != nil {
		return nil, job.Errorf(job.Internal, "load the CA: %w", err)
	}
	return ca.SignNode(csr, string(id), name, nil, n.wall(), 0)
}

// Renew gives a node a new certificate. Its connection proved that it has the key of its old one.
func (n *Node) Renew(_ context.Context, c api.Caller, r api.RenewRequest) (api.RenewResponse, error) {
	node := n.state.View().Node(c.Node)
	if node == nil {
		return api.RenewResponse{}, job.Errorf(job.Denied, "renew: node %s is not a member any more", c.Node)
	}
	pin, err := pinOfCSR(r.CSR)
	if err != nil {
		return api.RenewResponse{}, err
	}
	if !strings.EqualFold(pin, node.KeyPin) {
		return api.RenewResponse{}, job.Errorf(job.Denied, "renew: the request is for another key than the one that node %s joined with", node.Name)
	}
	cert, err := n.sign(r.CSR, node.ID, node.Name)
	return api.RenewResponse{Cert: cert}, err
}

// How often this node looks at its certificate.
const (
	renewalLook = time.Minute
	clocksApart = time.Hour // after a renewal that did not help, because this node's clock and the leader's are days apart
)

// keepCertificate renews this node's certificate in the last third of its life, and one from the future.
func (n *Node) keepCertificate(ctx context.Context) error {
	for {
		pause := renewalLook
		if n.ident.NeedsRenewal(n.wall()) {
			if err := n.renewCertificate(ctx); err != nil && ctx.Err() == nil {
				n.log.Warn("cannot renew this node's certificate yet", "ends", n.ident.NotAfter(), "error", err)
			} else if n.ident.NeedsRenewal(n.wall()) {
				pause = clocksApart
			}
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

func (n *Node) renewCertificate(ctx context.Context) error {
	key := n.ident.Key()
	csr, err := key.CSR(string(n.id))
	if err != nil {
		return err
	}
	resp, err := atLeader(ctx, n, func(c *api.Client) (api.RenewResponse, error) {
		return c.Renew(ctx, api.RenewRequest{CSR: csr})
	}, func() (api.RenewResponse, error) {
		return n.Renew(ctx, api.Caller{Node: n.id}, api.RenewRequest{CSR: csr})
	})
	if err != nil {
		return err
	}
	return n.renewed(key, resp.Cert)
}

// renewed takes and keeps a new certificate.
func (n *Node) renewed(key pki.Key, cert []byte) error {
	if err := n.ident.Renew(key, cert); err != nil {
		return err
	}
	n.log.Info("certificate renewed", "ends", n.ident.NotAfter())
	if err := step.Reach(stepRenew); err != nil {
		return err
	}
	return n.saveIdentity(stepRenewed)
}

// Register brings the log up to date about a node that (re)started, and takes it back if it was down. A forwarded
// request names the node that forwards, not the one that registers, so a node may speak only to the leader itself.
func (n *Node) Register(ctx context.Context, c api.Caller, r api.RegisterRequest) error {
	if c.Node != r.Node.ID {
		return job.Errorf(job.Denied, "register: node %s may not speak for node %s", c.Node, r.Node.ID)
	}
	view := n.state.View()
	known := view.Node(r.Node.ID)
	if known == nil {
		return job.Errorf(job.NotFound, "register: node %s was removed from the cluster: empty its data directory and join anew", r.Node.Name)
	}
	if err := checkRegistration(view, r.Node); err != nil {
		return err
	}
	r.Node.KeyPin = known.KeyPin
	if _, err := n.propose(ctx, state.PutNode{Node: r.Node, At: n.wall()}); err != nil {
		return err
	}
	if known.State == job.NodeDown {
		_, err := n.propose(ctx, state.NodeUp{Node: r.Node.ID, At: n.wall()})
		return err
	}
	return nil
}

// checkRegistration refuses what Apply would, so that a node which tries for ever writes nothing into the log.
func checkRegistration(view *state.View, node job.Node) error {
	if same := view.NodeByName(node.Name); same != nil && same.ID != node.ID {
		return job.Errorf(job.Conflict, "register node %q: the name is taken by node %s at %s; give this one another with --name, or remove that one with `shoal node rm %s`", node.Name, same.ID, same.Addr, node.Name)
	}
	if err := node.CheckReported(); err != nil {
		return job.Errorf(job.Invalid, "register node %q: %w", node.Name, err)
	}
	return view.CheckRules(node)
}

// Report writes a node's statuses into the log.
func (n *Node) Report(ctx context.Context, c api.Caller, r api.ReportRequest) error {
	if c.Node != r.Node {
		return job.Errorf(job.Denied, "report: node %s may not speak for node %s", c.Node, r.Node)
	}
	if n.state.View().Node(r.Node) == nil {
		return job.Errorf(job.Denied, "report: node %s is not a member", r.Node)
	}
	res, err := n.propose(ctx, state.Report{Node: r.Node, Statuses: r.Statuses, At: n.wall()})
	if told, ok := res.Value.(*state.ReportResult); ok && len(told.Refused) > 0 {
		n.log.Debug("a node told what is no news", "node", r.Node, "refused", told.Refused)
	}
	return err
}
