package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/consensus/job"
	"shoal/node/api"
)

// TestWithoutQuorum: one machine of three is left. It answers and says that it may be wrong, it refuses to change
// anything, and it keeps its own containers running.
func TestWithoutQuorum(t *testing.T) {
	n := cluster(t, 3)
	all := n.Machines()
	last := all[2]
	loadBusybox(t, all[0])
	sleepers(t, all[0], "web", 3)
	settled(t, n, last, "web", 3)
	mine := last.Tasks("web")
	if len(mine) != 1 {
		t.Fatalf("%s has the tasks %v, want one", last.Name, mine)
	}
	must(t, all[0].PowerOff())
	must(t, all[1].PowerOff())

	eventually(t, "reads that say that they may be stale", func() error {
		var list api.TaskList
		if err := last.JSON(&list, "ps"); err != nil {
			return err
		}
		if !list.Stale || len(list.Tasks) != 3 {
			return fmt.Errorf("stale: %v, %d tasks", list.Stale, len(list.Tasks))
		}
		known, err := nodes(last)
		if err != nil {
			return err
		}
		if !known.Stale || len(known.Nodes) != 3 {
			return fmt.Errorf("stale: %v, %d nodes", known.Stale, len(known.Nodes))
		}
		return nil
	})
	// A person's verbs: those that may simply be given again once there is a leader do not wait for one.
	for _, change := range [][]string{{"token", "create"}, {"node", "drain", all[0].Name}} {
		if r := last.Shoal(change...); r.Code != 7 || !strings.Contains(r.Stderr, "lead") {
			t.Errorf("shoal %s: %v\nwant exit 7 and a word about the leader", strings.Join(change, " "), r)
		}
	}
	// A program's: refused soon. 5 s are promised, on a machine that has them.
	c := last.Client()
	defer c.Close()
	start := time.Now()
	_, err := c.Scale(t.Context(), api.NewKey(), "web", map[string]int{"web": 5})
	if took := time.Since(start); job.KindOf(err) != job.Unavailable || took > 20*time.Second {
		t.Errorf("scaling without a quorum ended after %v with %v, want %v", took, err, job.Unavailable)
	}
	for id, pids := range mine {
		must(t, unix.Kill(pids[0], unix.SIGKILL))
		eventually(t, "the container to be started again", func() error {
			now := last.Tasks("web")[id]
			if len(now) == 0 || now[0] == pids[0] {
				return fmt.Errorf("its processes were %v and are %v", pids, now)
			}
			if r := last.Shoal("exec", id, "echo", "here"); r.Code != 0 || strings.TrimSpace(r.Stdout) != "here" {
				return r
			}
			return nil
		})
	}

	for _, m := range all[:2] {
		must(t, m.PowerOn())
		must(t, m.Start())
	}
	eventually(t, "all to be ready", func() error {
		list, err := nodes(last)
		if err != nil {
			return err
		}
		for _, v := range list.Nodes {
			if v.State != job.NodeReady {
				return fmt.Errorf("%s is %s", v.Name, v.State)
			}
		}
		return nil
	})
	settled(t, n, last, "web", 3)
	for id := range mine {
		eventually(t, "the log to know of the restart", func() error {
			k, err := last.Client().Task(t.Context(), id)
			if err != nil || k.Status == nil || k.Status.Restarts != 1 {
				return fmt.Errorf("%s is %+v (%v), want 1 restart", id, k.Status, err)
			}
			return nil
		})
	}
}
