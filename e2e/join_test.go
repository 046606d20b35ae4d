package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// TestJoinRefused: who must not come in is told why, ends with an error, and leaves no trace in the cluster.
func TestJoinRefused(t *testing.T) {
	n := network(t)
	home := founder(t, n)
	member := add(t, n)
	must(t, member.Start("--join", peer(home), "--token", token(t, home).Secret))
	must(t, member.AwaitReady(patience))
	foreign := founder(t, n)
	stranger := add(t, n)

	once := token(t, home, "--once")
	guest := add(t, n)
	must(t, guest.Start("--join", peer(home), "--token", once.Secret))
	must(t, guest.AwaitReady(patience))
	brief := token(t, home, "--ttl", "1s")
	removed := token(t, home)
	shoal(t, home, "token", "rm", removed.ID)
	good := token(t, home)
	time.Sleep(time.Until(brief.Expires) + 100*time.Millisecond)

	tests := []struct {
		name string
		args []string
		want string // of the message
	}{
		{"unknown token", []string{"--token", removed.Secret}, "not known to this cluster"},
		{"expired token", []string{"--token", brief.Secret}, "expired"},
		{"one-time token for the second time", []string{"--token", once.Secret}, "used up"},
		{"token of another cluster", []string{"--token", token(t, foreign).Secret}, "not of the cluster that the token is for"},
		{"typo in the token", []string{"--token", typo(good.Secret)}, "token"},
		{"no token", nil, "--token"},
		{"taken name", []string{"--token", good.Secret, "--name", home.Name}, "is taken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := remembered(t, home)
			said := refused(t, stranger, append([]string{"--join", peer(home)}, test.args...)...)
			if !strings.Contains(said, test.want) {
				t.Errorf("it says %q, want something with %q", said, test.want)
			}
			if after := remembered(t, home); !reflect.DeepEqual(before, after) {
				t.Errorf("the cluster changed:\n before %+v\n after  %+v", before, after)
			}
			must(t, stranger.Wipe())
		})
	}

	t.Run("data directory of a running node", func(t *testing.T) {
		before := remembered(t, home)
		must(t, exec.Command("cp", "-a", member.DataDir(), stranger.DataDir()).Run())
		if said := refused(t, stranger); !strings.Contains(said, member.Name) {
			t.Errorf("it says %q, want the name of the node whose directory it is", said)
		}
		if after := remembered(t, home); !reflect.DeepEqual(before, after) {
			t.Errorf("the cluster changed:\n before %+v\n after  %+v", before, after)
		}
		if !member.Running() || !member.Ready() {
			t.Error("the rightful node suffered")
		}
		must(t, stranger.Wipe())
	})

	t.Run("log lost under a known identity", func(t *testing.T) {
		before := remembered(t, home)
		must(t, member.PowerOff())
		must(t, os.RemoveAll(filepath.Join(member.DataDir(), "raft")))
		must(t, member.PowerOn())
		if said := refused(t, member); !strings.Contains(said, "join anew") {
			t.Errorf("it says %q, want the way back in", said)
		}
		eventually(t, "the cluster to be as before", func() error {
			if after := remembered(t, home); !reflect.DeepEqual(before, after) {
				t.Errorf("the cluster changed:\n before %+v\n after  %+v", before, after)
			}
			return nil
		})
	})

	t.Run("the way back in", func(t *testing.T) {
		must(t, member.Wipe())
		eventually(t, "the lost node to be removed", func() error {
			if r := home.Shoal("node", "rm", "--force", member.Name); r.Code != 0 {
				return r
			}
			return nil
		})
		must(t, member.Start("--join", peer(home), "--token", good.Secret))
		must(t, member.AwaitReady(patience))
	})
}

// founder makes a cluster of one.
func founder(t *testing.T, n *machines.Net) *machines.Machine {
	t.Helper()
	m := add(t, n)
	must(t, m.Start())
	must(t, m.AwaitReady(patience))
	return m
}

// add makes a machine that is on, without an agent.
func add(t *testing.T, n *machines.Net) *machines.Machine {
	t.Helper()
	m, err := n.Add(machines.MachineOptions{})
	must(t, err)
	must(t, m.PowerOn())
	return m
}

func peer(m *machines.Machine) string { return m.Addr.String() + ":6174" }

func token(t *testing.T, m *machines.Machine, args ...string) api.TokenCreated {
	t.Helper()
	var created api.TokenCreated
	must(t, m.JSON(&created, append([]string{"token", "create"}, args...)...))
	if want := "--join " + peer(m) + " --token " + created.Secret; !strings.Contains(created.Join, want) {
		t.Fatalf("the join command is %q, want %q in it", created.Join, want)
	}
	return created
}

// typo changes a character in the middle.
func typo(s string) string {
	i := len(s) / 2
	c := byte('a')
	if s[i] == c {
		c = 'b'
	}
	return s[:i] + string(c) + s[i+1:]
}

// refused starts the agent, which must end with an error by itself, and gives what it said.
func refused(t *testing.T, m *machines.Machine, args ...string) string {
	t.Helper()
	before, err := os.ReadFile(m.LogPath())
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	must(t, m.Start(args...))
	code, err := m.AwaitEnd(patience)
	if err != nil {
		t.Error(err)
		must(t, m.PowerOff())
		must(t, m.PowerOn())
		return ""
	}
	after, err := os.ReadFile(m.LogPath())
	must(t, err)
	said := string(after[len(before):])
	if code == 0 {
		t.Errorf("it ended with success: %s", said)
	}
	return said
}

// memory is what of a cluster a refused joiner must not change.
type memory struct {
	Nodes  []job.Node
	Tokens []job.Token
}

func remembered(t *testing.T, m *machines.Machine) memory {
	t.Helper()
	list, err := nodes(m)
	must(t, err)
	var known memory
	for _, v := range list.Nodes {
		known.Nodes = append(known.Nodes, job.Node{ID: v.ID, Name: v.Name, Addr: v.Addr, KeyPin: v.KeyPin, Subnet: v.Subnet})
	}
	must(t, json.Unmarshal([]byte(shoal(t, m, "token", "ls", "--json")), &known.Tokens))
	return known
}
