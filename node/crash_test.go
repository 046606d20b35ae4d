package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/node/api"
	"shoal/node/pki"
	"shoal/runtime/step"
	"shoal/runtime/step/disk"
)

const crashDirEnv = "SHOAL_TEST_NODE_DIR"

// lifeOfFiles goes through all changes of a founder's files, and then of a joining node's, as often as they are repeated
// after a start: founding, what follows once the cluster is in the log, peers, renewals.
func lifeOfFiles(root string, saw func(what string, b []byte)) error {
	founder, err := nodeIn(filepath.Join(root, "founder"), nil)
	if err != nil {
		return err
	}
	if err := founder.establish(context.Background()); err != nil {
		return fmt.Errorf("founder: %w", err)
	}
	saw("cluster", []byte(founder.member.Cluster))
	if founder.member.Founder {
		sealed, err := os.ReadFile(founder.path(foundingKeyFile))
		if err != nil {
			return fmt.Errorf("the new cluster's key: %w", err)
		}
		keyPEM, err := pki.Open(founder.member.SealKey, sealed, caKeyContext(founder.member.Cluster))
		if err != nil {
			return err
		}
		saw("ca", keyPEM) // from here on it is in the log
	}
	caPEM, err := os.ReadFile(filepath.Join(root, "log-ca"))
	if err != nil {
		return err
	}
	if founder.member.Founder {
		if err := founder.recorded(); err != nil {
			return err
		}
	}
	ca, err := pki.LoadCA(founder.ident.CAPEM(), caPEM)
	if err != nil {
		return fmt.Errorf("the authority's key is not that of the identity: %w", err)
	}
	if err := renewBy(founder, ca); err != nil {
		return err
	}
	for i := range 3 {
		founder.savePeers(&api.FeedFull{Nodes: []api.FeedNode{{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(rand.N(250))}), uint16(6174+i))}}})
	}

	joiner, err := nodeIn(filepath.Join(root, "joiner"), []string{"192.0.2.1:6174"})
	if err != nil {
		return err
	}
	err = joiner.establish(context.Background())
	if err != nil && strings.HasSuffix(err.Error(), errNobody.Error()) { // its key is there: what is left is to take the answer
		key, err := joiner.joiningKey()
		if err != nil {
			return err
		}
		saw("joining key", key.PEM())
		csr, err := key.CSR(string(joiner.id))
		if err != nil {
			return err
		}
		cert, err := ca.SignNode(csr, string(joiner.id), joiner.cfg.Name, nil, time.Now(), 0)
		if err != nil {
			return err
		}
		m := founder.member
		if err := joiner.joined(key, api.JoinResponse{Cluster: m.Cluster, CA: ca.CertPEM(), Cert: cert, SealKey: m.SealKey, GossipKeys: m.GossipKeys, Pool: m.Pool}); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("joiner: %w", err)
	}
	saw("joiner", []byte(joiner.id))
	return renewBy(joiner, ca)
}

func renewBy(n *Node, ca *pki.CA) error {
	key := n.ident.Key()
	csr, err := key.CSR(string(n.id))
	if err != nil {
		return err
	}
	cert, err := ca.SignNode(csr, string(n.id), n.cfg.Name, nil, time.Now(), 0)
	if err != nil {
		return err
	}
	return n.renewed(key, cert)
}

var errNobody = errors.New("nobody answers")

// deserted is an underlay where nobody answers.
type deserted struct{ sockets }

func (deserted) Dial(context.Context, string) (net.Conn, error) { return nil, errNobody }

func nodeIn(dir string, join []string) (*Node, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cfg := Config{
		DataDir: dir, Name: filepath.Base(dir), Bind: netip.MustParseAddrPort("127.0.0.1:6174"), Advertise: netip.MustParseAddrPort("127.0.0.1:6174"),
		Machine: func(MachineConfig) (*Machine, error) { return nil, errNobody }, Join: join, Logger: slog.New(slog.DiscardHandler), Underlay: deserted{},
	}
	if len(join) > 0 {
		token, err := pki.NewToken(strings.Repeat("ab", 32))
		if err != nil {
			return nil, err
		}
		cfg.Token = token.String()
	}
	return New(cfg)
}

// TestKilledAtEachStep kills a process at each step of the node's own files and its identity, 20 times each, at a random
// pass. The next start succeeds, is the same node of the same cluster with the same authority, and leaves nothing over.
func TestKilledAtEachStep(t *testing.T) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := step.FromEnv(); err != nil {
			t.Fatal(err)
		}
		if err := lifeOfFiles(dir, remember(dir)); err != nil {
			t.Fatal(err)
		}
		return
	}
	times := 4
	if n := os.Getenv("SHOAL_CRASH_TIMES"); n != "" {
		_, _ = fmt.Sscan(n, &times)
		times *= 20
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SHOAL_SEED"); s != "" {
		_, _ = fmt.Sscan(s, &seed)
	}
	t.Logf("SHOAL_SEED=%d", seed)
	root := disk.InMemory(t) // gone after the steps, which run side by side
	for n, at := range slices.Concat(Steps, pki.Steps) {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			killAtEach(t, root, at, times, rand.New(rand.NewPCG(seed, uint64(n))))
		})
	}
}

func killAtEach(t *testing.T, root string, at step.Name, times int, rng *rand.Rand) {
	for i := range times {
		dir := filepath.Join(root, fmt.Sprint(strings.ReplaceAll(string(at), " ", "-"), i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		killed := false
		for pass := 1 + rng.IntN(8); !killed; pass = (pass + 1) / 2 {
			cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtEachStep$")
			cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, fmt.Sprintf("%s=%s=kill@%d", step.Env, at, pass))
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			switch {
			case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
				killed = true
			case err != nil:
				t.Fatalf("pass %d: %v\n%s", pass, err, out)
			case pass == 1: // it went through before
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := lifeOfFiles(dir, remember(dir)); err != nil {
			t.Errorf("after a kill at %q: %v", at, err)
		}
		if left := leftovers(t, dir); len(left) > 0 {
			t.Errorf("after a kill at %q and a start: %v is left over", at, left)
		}
		_ = os.RemoveAll(dir)
	}
}

// remember keeps what others know of the node by now, and fails the process when it is another one than before.
func remember(dir string) func(string, []byte) {
	return func(what string, b []byte) {
		path := filepath.Join(dir, "log-"+what)
		old, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(old, b) {
			panic(fmt.Sprintf("%s was %q and is %q", what, old, b))
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			panic(err)
		}
	}
}

// leftovers are files that nobody looks at any more.
func leftovers(t *testing.T, dir string) (left []string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), "log-") &&
			!slices.Contains([]string{"node-id", "cluster.json", "identity.pem"}, d.Name()) {
			left = append(left, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}
