package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
	"shoal/node/pki"
)

// invited gives a request that would be taken, and the world that takes it.
func invited(t *testing.T) (*world, api.JoinRequest) {
	t.Helper()
	w := newWorld(t)
	ca, err := pki.NewCA("c1", day)
	if err != nil {
		t.Fatal(err)
	}
	token, err := pki.NewToken(ca.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	w.apply(state.PutToken{Token: job.Token{ID: token.ID, Verifier: token.Verifier(), Created: day, Expires: day.Add(time.Hour), MaxUses: 1}, At: day})
	return w, api.JoinRequest{TokenID: token.ID, Secret: token.Secret, Node: w.node(3, "gamma")}
}

func TestJoinersAreRefusedWithTheNextStep(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *api.JoinRequest)
		now    time.Duration
		want   job.Kind // "": taken
		says   string
	}{
		"good":            {},
		"unknown token":   {func(_ *world, r *api.JoinRequest) { r.TokenID = "other" }, 0, job.Denied, "shoal token create"},
		"wrong secret":    {func(_ *world, r *api.JoinRequest) { r.Secret = append([]byte{}, r.Secret...); r.Secret[0] ^= 1 }, 0, job.Denied, "shoal token create"},
		"empty secret":    {func(_ *world, r *api.JoinRequest) { r.Secret = nil }, 0, job.Denied, "shoal token create"},
		"removed token":   {func(w *world, r *api.JoinRequest) { w.apply(state.RemoveToken{ID: r.TokenID, At: day}) }, 0, job.Denied, "shoal token create"},
		"expired":         {nil, 2 * time.Hour, job.Denied, "expired at 2026-03-01T13:00:00Z"},
		"used up":         {func(w *world, r *api.JoinRequest) { w.apply(state.UseToken{ID: r.TokenID, Node: "x", At: day}) }, 0, job.Denied, "used up"},
		"id of a member":  {func(_ *world, r *api.JoinRequest) { r.Node.ID = nodeIDs[1] }, 0, job.Conflict, "two machines must not share one data directory"},
		"name of another": {func(_ *world, r *api.JoinRequest) { r.Node.Name = "alpha" }, 0, job.Conflict, "--name"},
		"addr of another": {func(w *world, r *api.JoinRequest) { r.Node.Addr = w.View().Node(nodeIDs[1]).Addr }, 0, job.Conflict, "--advertise"},
		"addr of a lost one": {func(w *world, r *api.JoinRequest) {
			w.apply(state.NodeDown{Node: nodeIDs[1], At: day})
			r.Node.Addr = w.View().Node(nodeIDs[1]).Addr
		}, 0, "", ""},
		"no name":       {func(_ *world, r *api.JoinRequest) { r.Node.Name = "" }, 0, job.Invalid, "--name"},
		"name of spite": {func(_ *world, r *api.JoinRequest) { r.Node.Name = "a\x1b[2J" }, 0, job.Invalid, "--name"},
		"long name":     {func(_ *world, r *api.JoinRequest) { r.Node.Name = strings.Repeat("a", 64) }, 0, job.Invalid, "--name"},
		"no id":         {func(_ *world, r *api.JoinRequest) { r.Node.ID = "" }, 0, job.Invalid, "not a node's id"},
		"id of spite":   {func(_ *world, r *api.JoinRequest) { r.Node.ID = "../../etc" }, 0, job.Invalid, "not a node's id"},
		"no address":    {func(_ *world, r *api.JoinRequest) { r.Node.Addr = netip.AddrPort{} }, 0, job.Invalid, "--advertise"},
		"any address":   {func(_ *world, r *api.JoinRequest) { r.Node.Addr = netip.MustParseAddrPort("0.0.0.0:6174") }, 0, job.Invalid, "--advertise"},
		"no port":       {func(_ *world, r *api.JoinRequest) { r.Node.Addr = netip.MustParseAddrPort("192.0.2.9:0") }, 0, job.Invalid, "--advertise"},
		"the same machine again, token used up": {func(w *world, r *api.JoinRequest) {
			w.apply(state.UseToken{ID: r.TokenID, Node: r.Node.ID, At: day})
			w.apply(state.PutNode{Node: r.Node, At: day})
		}, 0, "", ""},
		"the same id with another key": {func(w *world, r *api.JoinRequest) {
			w.apply(state.PutNode{Node: r.Node, At: day})
			r.Node.KeyPin = "another"
		}, 0, job.Conflict, "join again"},
	} {
		t.Run(name, func(t *testing.T) {
			w, r := invited(t)
			if c.change != nil {
				c.change(w, &r)
			}
			err := checkJoiner(w.View(), r, day.Add(c.now))
			if job.KindOf(err) != c.want {
				t.Fatalf("%v (%v), want %q", err, job.KindOf(err), c.want)
			}
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
		})
	}
}

func TestAStrangerLearnsNothingFromItsRefusal(t *testing.T) {
	w, r := invited(t)
	n := &Node{state: w.Store, joinTurn: make(chan struct{}, 1)}
	var first string
	for _, change := range []func(*api.JoinRequest){
		func(*api.JoinRequest) {}, func(r *api.JoinRequest) { r.Node.Name = "alpha" }, func(r *api.JoinRequest) { r.Node.ID = nodeIDs[1] },
		func(r *api.JoinRequest) { r.CSR = []byte("nonsense") }, func(r *api.JoinRequest) { r.TokenID = "nosuch" },
	} {
		q := r
		q.Secret = []byte("guess")
		change(&q)
		_, err := n.Join(context.Background(), q)
		if !errors.Is(err, job.Denied) {
			t.Fatalf("%v, want denied", err)
		}
		if first == "" {
			first = err.Error()
		}
		if err.Error() != first {
			t.Errorf("refusals differ:\n%s\n%s", first, err)
		}
	}
}

func TestARegistrationThatApplyWouldRefuseIsNotProposed(t *testing.T) {
	w := newWorld(t)
	n := &Node{state: w.Store} // without a log: a proposal would panic
	for what, c := range map[string]struct {
		change func(*job.Node)
		want   error
	}{
		"a taken name": {func(n *job.Node) { n.Name = "beta" }, job.Conflict},
		"an old build": {func(n *job.Node) { n.Rules-- }, job.Conflict},
		"an odd description": {func(n *job.Node) {
			n.Attributes = map[string]string{"a": strings.Repeat("x", job.MaxAttributeBytes)}
		}, job.Invalid},
	} {
		node := w.node(1, "alpha")
		c.change(&node)
		if err := n.Register(context.Background(), api.Caller{Node: node.ID}, api.RegisterRequest{Node: node}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

func TestWhatCannotBeSignedChangesNothing(t *testing.T) {
	w, r := invited(t)
	n := &Node{state: w.Store, joinTurn: make(chan struct{}, 1)} // without a log: a proposal would panic
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	w.apply(state.PutToken{Token: job.Token{ID: "long", Verifier: pki.Token{ID: "long", Secret: r.Secret}.Verifier(), Created: day}, At: day})
	r.TokenID = "long"
	for what, csr := range map[string][]byte{
		"no PEM":      []byte("x"),
		"damaged":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der[:len(der)-1]}),
		"another key": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
	} {
		r.CSR = csr
		if _, err := n.Join(context.Background(), r); err == nil {
			t.Errorf("%s: taken", what)
		}
		if w.View().Node(r.Node.ID) != nil {
			t.Errorf("%s: it became a member", what)
		}
	}
}

func TestNodesSpeakForThemselvesAlone(t *testing.T) {
	w := newWorld(t)
	n := &Node{state: w.Store, joinTurn: make(chan struct{}, 1)}
	ctx := context.Background()
	evil := api.Caller{Access: api.NodeOnly, Node: nodeIDs[2]}
	if err := n.Report(ctx, evil, api.ReportRequest{Node: nodeIDs[1]}); !errors.Is(err, job.Denied) {
		t.Errorf("report for another: %v", err)
	}
	if err := n.Register(ctx, evil, api.RegisterRequest{Node: w.node(1, "alpha")}); !errors.Is(err, job.Denied) {
		t.Errorf("register another: %v", err)
	}
	key, _ := pki.NewKey()
	csr, _ := key.CSR("x")
	if _, err := n.Renew(ctx, evil, api.RenewRequest{CSR: csr}); !errors.Is(err, job.Denied) {
		t.Errorf("renew with another key: %v", err)
	}
	gone := api.Caller{Access: api.NodeOnly, Node: "gone"}
	if _, err := n.Renew(ctx, gone, api.RenewRequest{CSR: csr}); !errors.Is(err, job.Denied) {
		t.Errorf("renewal of a removed node: %v", err)
	}
	if err := n.Report(ctx, gone, api.ReportRequest{Node: "gone"}); !errors.Is(err, job.Denied) {
		t.Errorf("report of a removed node: %v", err)
	}
	if err := n.Register(ctx, gone, api.RegisterRequest{Node: job.Node{ID: "gone"}}); !errors.Is(err, job.NotFound) {
		t.Errorf("registration of a removed node: %v", err)
	}
}

// One join may wait for a log that has no quorum; another machine's must not wait for longer than its own request lives.
func TestJoinWaitsForAnotherNoLongerThanItsRequest(t *testing.T) {
	w, r := invited(t)
	n := &Node{state: w.Store, joinTurn: make(chan struct{}, 1)}
	n.joinTurn <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := n.Join(ctx, r); !errors.Is(err, job.Unavailable) {
		t.Errorf("got %v, want that it is not possible now", err)
	}
}

// The leader was lost after it had counted the first token, before the machine was a member: it must get in with another.
func TestJoinBegunWithOneTokenGoesOnWithAnother(t *testing.T) {
	w, r := invited(t)
	w.apply(useOf(r, day))
	w.apply(useOf(r, day.Add(time.Second)))
	if got := w.View().Token(r.TokenID).Uses; got != 1 {
		t.Errorf("one machine asked twice: %d uses", got)
	}
	w.apply(state.PutToken{Token: job.Token{ID: "second", Verifier: []byte("v"), Created: day, Expires: day.Add(time.Hour), MaxUses: 1}, At: day})
	r.TokenID = "second"
	w.apply(useOf(r, day.Add(time.Minute)))
	if got := w.View().Token("second").Uses; got != 1 {
		t.Errorf("the second token has %d uses", got)
	}
}
