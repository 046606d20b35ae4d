package nodetest

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node"
	"shoal/node/api"
	"shoal/runtime/fake"
)

// sim drives a cluster through random changes and faults of one seed, and then asks whether all came right.
//
// A seed fixes the script, not the run: goroutines, ids and raft's timers have chance of their own. A seed that failed
// once may need a few runs to fail again.
type sim struct {
	*Cluster
	r            *rand.Rand
	extra        *rand.Rand // of what came later: the scripts of old seeds stay as they were
	audit        *auditor
	stops        map[*Machine]func() // of the audit of each agent
	apis         map[*Machine]http.Handler
	histories    map[string]*history
	undo         []undo
	start        time.Time
	trace        []string
	seed         uint64
	logs         *logTail
	settled      time.Duration       // from the end of all faults
	more         bool                // with moretrouble.go
	peace        bool                // all faults have ended
	runs         map[place]*job.Run  // of batches, as last seen
	runsAt       uint64              // index of that
	steadyClocks bool                // no clock was set
	limbo        map[*Machine]string // machines that left a membership of that name and are to come anew
	Counts       map[string]int      // how often each kind of change and fault took place
}

// undo is the end of a fault.
type undo struct {
	at time.Time
	f  func()
}

// simImages are what the simulated jobs run.
var simImages = map[string]fake.Image{"web:1": {}, "web:2": {}, "slow:1": {Absent: true, PullDelay: 3 * time.Second}}

// laterSeeds came when clusters began to be upgraded while they are in trouble; those before are what they were.
const laterSeeds = 1 << 20

func newSim(t testing.TB, seed uint64, more bool) *sim {
	r := rand.New(rand.NewPCG(seed, 7))
	s := &sim{
		r: r, extra: rand.New(rand.NewPCG(seed, 11)), Cluster: New(t, 3+r.IntN(5), seed, simImages), audit: newAuditor(), stops: map[*Machine]func(){}, apis: map[*Machine]http.Handler{},
		seed: seed, logs: &logTail{}, histories: map[string]*history{}, more: more, steadyClocks: true, runs: map[place]*job.Run{}, start: time.Now(), limbo: map[*Machine]string{}, Counts: map[string]int{},
	}
	s.Logger = slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelInfo}))
	upgrade := rand.New(rand.NewPCG(seed, 13))
	old := seed > laterSeeds && upgrade.IntN(3) == 0
	for i, m := range s.Machines {
		m.Labels = map[string]string{"zone": string(rune('a' + i%2))}
		if old {
			m.BuildsBehind = 1
		}
		m.OnStart = func(n *node.Node) {
			if upgrade.IntN(2) == 0 {
				m.BuildsBehind = 0 // when it starts again
			}
			s.stopAudit(m)
			s.stops[m] = s.audit.follow(m, n)
			s.apis[m] = api.NewServer(n, http.NotFoundHandler(), s.Logger)
		}
	}
	t.Cleanup(func() {
		for _, m := range s.Machines {
			s.stopAudit(m)
		}
	})
	return s
}

func (s *sim) stopAudit(m *Machine) {
	if stop := s.stops[m]; stop != nil {
		stop()
		delete(s.stops, m)
	}
}

func (s *sim) note(format string, args ...any) {
	line := fmt.Sprintf("%8.3f ", time.Since(s.start).Seconds()) + fmt.Sprintf(format, args...)
	s.trace = append(s.trace, line)
	s.Logger.Info("SIM " + line)
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	if dir := os.Getenv("SHOAL_SIM_LOGS"); dir != "" {
		s.logs.save(filepath.Join(dir, fmt.Sprintf("seed-%d.log", s.seed)))
	}
	s.t.Fatalf("seed %d: %s\n--- what was done:\n%s", s.seed, fmt.Sprintf(format, args...), strings.Join(s.trace, "\n"))
}

// run is one simulation: a time of trouble, and the peace after it.
func (s *sim) run(trouble time.Duration) {
	s.Form()
	defer s.watchLeased()()
	s.start = time.Now()
	for end := s.start.Add(trouble); time.Now().Before(end); {
		s.step()
		s.check()
	}
	s.heal()
	s.settle()
}

// step waits a little, and does one thing.
func (s *sim) step() {
	s.rest(time.Duration(s.r.ExpFloat64() * float64(3*time.Second)))
	if s.r.IntN(5) < 2 {
		s.change()
		return
	}
	s.fault()
}

// rest sleeps, and ends the faults whose time has come.
func (s *sim) rest(d time.Duration) {
	end := time.Now().Add(d)
	for {
		slices.SortStableFunc(s.undo, func(a, b undo) int { return a.at.Compare(b.at) })
		if len(s.undo) == 0 || s.undo[0].at.After(end) {
			break
		}
		u := s.undo[0]
		s.undo = s.undo[1:]
		time.Sleep(time.Until(u.at))
		u.f()
	}
	time.Sleep(time.Until(end))
}

// after has a fault end after a random time, short ones more often.
func (s *sim) after(least, most time.Duration, f func()) {
	x := s.r.Float64()
	s.undo = append(s.undo, undo{time.Now().Add(least + time.Duration(x*x*float64(most-least))), f})
}

// check asks what must hold at any time.
func (s *sim) check() {
	for _, m := range s.Machines {
		if err, gone := m.Exited(); gone {
			if so, well := m.diskFailed(err); so {
				s.note("%s: its agent ended: %v", m.Name, err)
				if _, out := s.limbo[m]; well && !out { // else its revival is planned
					m.PowerOn()
				}
				continue
			}
			if _, joining := s.limbo[m]; joining {
				s.note("%s could not join: %v", m.Name, err)
				if errors.Is(err, job.NotFound) { // it had joined, ended, and was removed for it: what it says to do
					m.Wipe()
				}
				continue
			}
			s.fail("the agent of %s ended by itself: %v", m.Name, err)
		}
		if _, out := s.limbo[m]; out && m.ready() {
			s.note("%s: a member again", m.Name)
			delete(s.limbo, m)
		}
		if m.node != nil && m.node.Started() {
			s.audit.agree(m)
			if v := m.node.State().View(); s.more && v.Index() > s.runsAt {
				s.runsAt = v.Index()
				s.checkRuns(v.Runs("", ""))
			}
		}
	}
	if v := s.audit.verdict(); v != "" {
		s.fail("%s", v)
	}
}

// heal ends all faults.
func (s *sim) heal() {
	s.note("peace")
	s.peace = true
	s.undo = nil
	s.Net.Heal()
	s.Net.SetLoss(0)
	s.Net.SetStreamLoss(0)
	for _, m := range s.Machines {
		m.Slow(0)
		m.Hang(0)
		m.FailDisk(nil)
		m.Runtime.Heal()
		for _, id := range s.containers(m) {
			m.Runtime.Health(id, 0, "well")
		}
		if _, out := s.limbo[m]; m.Off() && !out {
			m.BuildsBehind = 0
			m.PowerOn()
		}
		if m.BuildsBehind > 0 && m.node != nil { // the admin comes to an end with the upgrade
			err := m.StopAgent()
			if diskFailed, _ := m.diskFailed(err); err != nil && !diskFailed { // it may have been ending for that
				s.fail("the agent of %s, stopped: %v", m.Name, err)
			}
			m.BuildsBehind = 0
			m.StartAgent()
		}
	}
}

// settleLimit is how long a cluster may take until all is well and quiet: the longest waits in it are of a minute
// (scheduler: maxBackoff, drainPatience), and an update or drain moves one task of a service at a time.
const settleLimit = 6 * time.Minute

// settle demands that all comes right, and stays so.
func (s *sim) settle() {
	healed := time.Now()
	for deadline := healed.Add(2 * time.Minute); len(s.limbo) > 0; time.Sleep(time.Second) {
		s.check()
		if time.Now().After(deadline) {
			s.fail("machines could not come anew in %v: %v\n%s", time.Since(healed), slices.Collect(maps.Values(s.limbo)), s.postMortem())
		}
		for _, m := range s.Machines {
			if name, out := s.limbo[m]; out {
				s.comeAnew(m, name)
			}
		}
	}
	s.check()
	if s.more {
		s.endMore()
	}
	for range 15 { // seconds, longer than any request of before lives
		time.Sleep(time.Second)
		s.check() // an agent whose disk failed takes a while to end
	}
	if err := s.awaitQuiet(settleLimit, 30*time.Second); err != nil {
		s.fail("%v\n%s", err, s.postMortem())
	}
	s.settled = time.Since(healed) - 45*time.Second
	s.check()
	s.rightJobs()
	s.sameStates()
}

// rightJobs compares the agreed jobs with what the admin was told.
func (s *sim) rightJobs() {
	v := s.Leader().node.State().View()
	for name, h := range s.histories {
		var is *jobState
		if j := v.Job(name); j != nil {
			is = &jobState{Stopped: j.Stopped, Services: slices.Clone(j.Spec.Services)}
			for i := range is.Services {
				is.Services[i].Renewal = 0 // a restart's, of which the model knows nothing
			}
		}
		if !h.allows(is) {
			s.fail("job %s is\n     %s\nbut by what was acknowledged must be\n     %s", name, is.key(), h.states())
		}
	}
}

// sameStates demands that all who hold the log have the same state.
func (s *sim) sameStates() {
	first := ""
	for _, m := range s.Machines {
		if !s.holds(m) { // one that was replaced while it was away keeps an old copy, and knows it
			continue
		}
		v := m.node.State().View()
		is := fmt.Sprintf("%d %x", v.Index(), v.Hash())
		if first == "" {
			first = is
		}
		if is != first {
			s.fail("%s has %s and another log-holder %s", m.Name, is, first)
		}
	}
}
