package nodetest

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A member that starts under a name which another has is refused for as long as it tries, and costs the log nothing.
func TestARegistrationThatIsRefusedFillsNoLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.Await(time.Minute, "a leader", func() bool { return c.Leader() != nil })
		var m *Machine
		for _, o := range c.Machines {
			if o != c.Leader() {
				m = o
			}
		}
		if err := m.StopAgent(); err != nil {
			t.Fatal(err)
		}
		was, dir := m.Name, m.dir()
		m.Name = c.Leader().Name
		m.life += 9 // not the other's directory
		if err := os.Rename(dir, m.dir()); err != nil {
			t.Fatal(err)
		}
		m.StartAgent()
		time.Sleep(20 * time.Second)
		index := func() uint64 { return c.Leader().node.State().View().Index() }
		before := index()
		time.Sleep(time.Minute)
		if grown := index() - before; grown > 5 {
			t.Errorf("the log has grown by %d entries in a minute", grown)
		}
		if err := m.StopAgent(); err != nil {
			t.Fatal(err)
		}
		dir = m.dir()
		m.Name, m.life = was, m.life-9
		if err := os.Rename(dir, m.dir()); err != nil {
			t.Fatal(err)
		}
		m.StartAgent()
		c.Await(time.Minute, "the node under its own name", m.ready)
	})
}
