package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// A log-holder that starts goes through what its log has since the snapshot, an older drain of its own too.
func TestADrainIsAnothersOnlyByALookThatIsNewEnough(t *testing.T) {
	n := &Node{cfg: Config{DataDir: t.TempDir()}}
	n.noteDrain(day, 20)
	mark, err := os.ReadFile(filepath.Join(n.cfg.DataDir, drainMark))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		index          uint64
		drained        bool
		by             time.Time
		another, known bool
	}{
		{0, true, day.Add(time.Hour), false, false},
		{10, true, day.Add(-time.Hour), false, false},
		{19, false, time.Time{}, false, false},
		{20, true, day, false, true},
		{30, false, time.Time{}, false, true},
		{30, true, day.Add(time.Hour), true, true},
		{30, true, time.Time{}, true, true},
	} {
		n.fed.Store(&fed{full: &api.FeedFull{Self: job.Node{Drained: c.drained, DrainBy: c.by}}, index: c.index})
		if another, known := n.anothersDrain(mark); another != c.another || known != c.known {
			t.Errorf("at %d, drained %v by %v: another's %v, known %v", c.index, c.drained, c.by, another, known)
		}
		if another, known := n.anothersDrain(nil); another || !known {
			t.Errorf("with an empty note: another's %v, known %v", another, known)
		}
	}
}
