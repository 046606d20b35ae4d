package node

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/consensus/job"
	"shoal/node/pki"
)

// onDisk is a machine's data directory, and the node that an agent starting there would be.
type onDisk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T) onDisk { return onDisk{t, t.TempDir()} }

func (d onDisk) start(change func(*Config)) *Node {
	d.t.Helper()
	cfg := Config{
		DataDir: d.dir, Name: "alpha", Bind: netip.MustParseAddrPort("127.0.0.1:6174"), Advertise: netip.MustParseAddrPort("127.0.0.1:6174"),
		Machine: func(MachineConfig) (*Machine, error) { return nil, errors.New("not in this test") }, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

func (d onDisk) remove(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
		d.t.Fatal(err)
	}
}

func (d onDisk) write(name string, b []byte) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), b, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d onDisk) has(name string) bool {
	_, err := os.Stat(filepath.Join(d.dir, name))
	return err == nil
}

func TestAFounderThatCrashedFoundsAgainOrGoesOn(t *testing.T) {
	for _, c := range []struct {
		name  string
		crash func(onDisk)
		same  bool // the cluster that was begun goes on
	}{
		{"before the identity", func(d onDisk) { d.remove(membershipFile); d.remove(foundingKeyFile); d.remove("identity/identity.pem") }, false},
		{"before the CA's key", func(d onDisk) { d.remove(membershipFile); d.remove(foundingKeyFile) }, false},
		{"before cluster.json", func(d onDisk) { d.remove(membershipFile) }, false},
		{"after cluster.json", func(onDisk) {}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(t)
			first := d.start(nil)
			if err := first.establish(context.Background()); err != nil {
				t.Fatal(err)
			}
			c.crash(d)
			again := d.start(nil)
			if err := again.establish(context.Background()); err != nil {
				t.Fatalf("start after the crash: %v", err)
			}
			if again.id != first.id {
				t.Errorf("the id changed from %s to %s", first.id, again.id)
			}
			if same := again.member.Cluster == first.member.Cluster; same != c.same {
				t.Errorf("the same cluster: %v, want %v", same, c.same)
			}
			if !again.member.Founder || again.ident.ClusterID() != again.member.Cluster || again.ident.NodeID() != string(again.id) {
				t.Errorf("parts of two clusters: %+v, identity of %s/%s", again.member, again.ident.ClusterID(), again.ident.NodeID())
			}
			sealed, err := os.ReadFile(again.path(foundingKeyFile))
			if err != nil {
				t.Fatal(err)
			}
			caKey, err := pki.Open(again.member.SealKey, sealed, caKeyContext(again.member.Cluster))
			if err != nil {
				t.Fatalf("the CA's key does not open: %v", err)
			}
			if _, err := pki.LoadCA(again.ident.CAPEM(), caKey); err != nil {
				t.Errorf("the CA's key is another's: %v", err)
			}
		})
	}
}

func TestAFoundersKeyGoesWhenItHasServed(t *testing.T) {
	d := newDisk(t)
	n := d.start(nil)
	if err := n.establish(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.member.Founder = false
	if err := n.saveMembership(); err != nil { // and a crash before the key is removed
		t.Fatal(err)
	}
	if err := d.start(nil).establish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if d.has(foundingKeyFile) {
		t.Error("the CA's key was left behind")
	}
}

func TestDirectoriesThatCannotBeTrustedAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(onDisk)
		says   string
	}{
		{"the log is gone", func(d onDisk) { os.RemoveAll(filepath.Join(d.dir, raftDir)) }, "must not come back under its old id"},
		{"the identity is gone", func(d onDisk) { d.remove("identity/identity.pem") }, "join anew"},
		{"the identity is damaged", func(d onDisk) { d.write("identity/identity.pem", []byte("x")) }, "join anew"},
		{"cluster.json is damaged", func(d onDisk) { d.write(membershipFile, []byte("{")) }, membershipFile},
		{"cluster.json is gone, the log is not", func(d onDisk) { d.remove(membershipFile); d.write("raft/raft.db", []byte("log")) }, "restore the file"},
		{"the identity is another node's", func(d onDisk) {
			other := newDisk(d.t)
			if err := other.start(nil).establish(context.Background()); err != nil {
				d.t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(other.dir, "identity/identity.pem"))
			if err != nil {
				d.t.Fatal(err)
			}
			d.write("identity/identity.pem", b)
		}, "join anew"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(t)
			if err := d.start(nil).establish(context.Background()); err != nil {
				t.Fatal(err)
			}
			c.damage(d)
			err := d.start(nil).establish(context.Background())
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want an error that says %q", err, c.says)
			}
		})
	}
}

func TestAJoinerThatCrashedAsksAgainAsTheSame(t *testing.T) {
	d := newDisk(t)
	n := d.start(nil)
	if err := os.MkdirAll(n.path(identityDir), 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := n.joiningKey()
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(n.path(joiningKeyFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", fi, err)
	}
	again, err := d.start(nil).joiningKey()
	if err != nil || again.Pin() != key.Pin() {
		t.Errorf("after the crash it has the key %v, %v; want %v", again.Pin(), err, key.Pin())
	}
	// It must not found a cluster of its own when --join is left out the second time.
	if err := d.start(nil).establish(context.Background()); !errors.Is(err, job.Conflict) || !strings.Contains(err.Error(), "--join") {
		t.Errorf("start without --join: %v", err)
	}
	d.write(joiningKeyFile, []byte("x"))
	if _, err := d.start(nil).joiningKey(); err == nil || !strings.Contains(err.Error(), joiningKeyFile) {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestOneDirectoryHasOneAgent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	unlock, err := lockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	isPrivate := func() {
		t.Helper()
		if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("data directory: %v, %v; want mode 0700", fi.Mode(), err)
		}
	}
	isPrivate()
	if _, err := lockDataDir(dir); !errors.Is(err, job.Conflict) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a second agent: %v", err)
	}
	unlock()
	if err := os.Chmod(dir, 0o755); err != nil { // as who makes it beforehand may have it
		t.Fatal(err)
	}
	unlock, err = lockDataDir(dir)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	isPrivate()
	unlock()
}

func TestFilesAreWholeOrOld(t *testing.T) {
	d := newDisk(t)
	path := filepath.Join(d.dir, "f")
	for _, want := range []string{"one", "two"} {
		if err := writeFileAtomic(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
	}
	if err := writeFileAtomic(filepath.Join(d.dir, "none", "f"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
	if left, _ := filepath.Glob(path + ".tmp*"); len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestSecretsOfTheMembershipAreForRootAlone(t *testing.T) {
	d := newDisk(t)
	if err := d.start(nil).establish(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{membershipFile, foundingKeyFile, "identity/identity.pem"} {
		if fi, err := os.Stat(filepath.Join(d.dir, f)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", f, fi.Mode(), err)
		}
	}
	b, err := os.ReadFile(filepath.Join(d.dir, membershipFile))
	var m membership
	if err != nil || json.Unmarshal(b, &m) != nil || len(m.SealKey) != pki.SealKeySize || len(m.GossipKeys) != 1 {
		t.Errorf("membership: %v", err)
	}
}

func TestConfigurationsAreCheckedBeforeAnythingIsTouched(t *testing.T) {
	for says, change := range map[string]func(*Config){
		"--data-dir":           func(c *Config) { c.DataDir = "" },
		"--name":               func(c *Config) { c.Name = "-" },
		"bind address":         func(c *Config) { c.Bind = netip.AddrPort{} },
		"--advertise":          func(c *Config) { c.Advertise = netip.MustParseAddrPort("0.0.0.0:1") },
		"shoal token create":   func(c *Config) { c.Join = []string{"192.0.2.1:6174"} },
		"--token without":      func(c *Config) { c.Token = "t" },
		"at least a /24":       func(c *Config) { c.Pool = netip.MustParsePrefix("10.0.0.0/25") },
		"IPv4 prefix":          func(c *Config) { c.Pool = netip.MustParsePrefix("fd00::/16") },
		"a key takes 1 to 128": func(c *Config) { c.Labels = map[string]string{"": "v"} },
		"no machine":           func(c *Config) { c.Machine = nil },
	} {
		dir := filepath.Join(t.TempDir(), "data")
		cfg := Config{DataDir: dir, Name: "a", Bind: netip.MustParseAddrPort("0.0.0.0:6174"), Advertise: netip.MustParseAddrPort("192.0.2.1:6174"),
			Machine: func(MachineConfig) (*Machine, error) { return nil, nil }}
		if _, err := New(cfg); err != nil {
			t.Fatalf("a good configuration: %v", err)
		}
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: the data directory was made", says)
		}
	}
}
