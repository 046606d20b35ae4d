// Package runtimetest is the conformance suite of runtime.Runtime: every promise of the contract that a node relies on,
// as a subtest. It knows the contract and a busybox; it refuses to know which implementation it tests.
package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shoal/runtime"
)

// Harness is one implementation under test. Run removes each container that it makes.
type Harness struct {
	Runtime runtime.Runtime

	// Reopen gives a new Runtime over the same directory, as a restarted node would; nil if that is not supported, and
	// the subtests of adoption are skipped. If the implementation allows only one Runtime at a time, it ends the old one.
	Reopen func() runtime.Runtime

	// Close, if not nil, ends Runtime without touching its containers. It is called before Reopen, and a while lies
	// between the two calls.
	Close func()

	// Image is present (or can be pulled) and has a busybox at /bin/busybox and links to it in /bin, at least sh, sleep,
	// echo, cat, true, false, id, env and pwd; its PATH finds them. It has no HEALTHCHECK.
	Image string

	// BadImage is a reference that is neither present nor anywhere else.
	BadImage string
}

// patience bounds each wait for something that must happen; no promise is about being faster than this.
const patience = 60 * time.Second

// Scripts that the suite runs; runtime/fake understands exactly such programs.
const (
	scriptForever = "while :; do sleep 0.1; done"
	scriptPolite  = "trap 'exit 7' TERM; echo ready; " + scriptForever // ends with 7 when asked to
	scriptDeaf    = "trap '' TERM; echo ready; " + scriptForever       // must be killed
)

// Run checks all promises. newRuntime is called once for most subtests together and once for each of the adoption ones.
func Run(t *testing.T, newRuntime func(t *testing.T) Harness) {
	shared := newRuntime(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(newSuite(t, shared)) })
	}
	for _, c := range adoptionCases {
		t.Run(c.name, func(t *testing.T) {
			h := newRuntime(t)
			if h.Reopen == nil {
				t.Skip("this runtime cannot be opened again over the same directory")
			}
			c.run(newSuite(t, h))
		})
	}
}

var cases = []struct {
	name string
	run  func(*suite)
}{
	{"PullTellsDigest", testPull},
	{"PresentAsksNobody", testPresent},
	{"PullOfMissingImageIsNotFound", testPullMissing},
	{"CreateRefuses", testCreateRefuses},
	{"CreateRunsNothing", testCreateRunsNothing},
	{"IDIsTakenOnce", testConflict},
	{"StartAndExitCode", testExitCode},
	{"StartWrongState", testStartWrongState},
	{"CommandNotFoundIs127", testNotFoundCommand},
	{"CommandNotExecutableIs126", testNotExecutable},
	{"EntrypointAndCommand", testEntrypoint},
	{"EnvWorkingDirUserHostname", testProcess},
	{"StdinIsNull", testStdinNull},
	{"StopAsksFirst", testStopAsks},
	{"StopKillsAfterGrace", testStopKills},
	{"StopTakesTheSpecsGrace", testStopSpecGrace},
	{"StopIsIdempotent", testStopIdempotent},
	{"InitForwardsSignals", testInit},
	{"SignalByAnyName", testSignal},
	{"RemoveKillsAndIsIdempotent", testRemove},
	{"UpdateInPlace", testUpdate},
	{"UpdateRefuses", testUpdateRefuses},
	{"RestartInPlace", testRestart},
	{"ListIsSortedWithLabels", testList},
	{"InspectErrors", testInspectErrors},
	{"EventsTellStartAndExit", testEvents},
	{"EventsCloseWithContext", testEventsClose},
	{"ExecExitCodeAndOutput", testExec},
	{"ExecStdin", testExecStdin},
	{"ExecEnvAndDir", testExecEnv},
	{"ExecCancelKills", testExecCancel},
	{"ExecLeaveLetsItGoOn", testExecLeave},
	{"ExecEndsWithContainer", testExecContainerEnds},
	{"ExecErrors", testExecErrors},
	{"LogsTailAndSince", testLogs},
	{"LogsStreams", testLogStreams},
	{"LogsFollow", testLogsFollow},
	{"LogsCallbackErrorEndsThem", testLogsCallback},
	{"StatsWhileRunning", testStats},
	{"ConcurrentCallsOnOne", testConcurrent},
	{"JoinsARunningContainer", testJoin},
	{"JoinRefuses", testJoinRefuses},
	{"NoNetworkNoAddress", testNoAddress},
	{"NoLogIsKept", testNoLog},
	{"LeaseIsNeededToStart", testLeaseStart},
	{"LeaseEndsTheContainer", testLeaseEnds},
	{"LeaseIsRenewed", testLeaseRenewed},
	{"LeaseErrors", testLeaseErrors},
	{"AttachGivesExitCode", testAttach},
	{"AttachGetsWhatWasKept", testAttachKeeps},
	{"AttachStdinAndAgain", testAttachStdin},
	{"AttachOfSeveral", testAttachSeveral},
	{"PauseAndResume", testPause},
	{"ProcessesAreListed", testProcesses},
	{"CopyBothWays", testCopy},
}

var adoptionCases = []struct {
	name string
	run  func(*suite)
}{
	{"AdoptRunning", testAdoptRunning},
	{"AdoptEndedBetween", testAdoptEnded},
}

// suite is one subtest's hand.
type suite struct {
	*testing.T
	h   Harness
	rt  runtime.Runtime
	ctx context.Context
}

func newSuite(t *testing.T, h Harness) *suite {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	s := &suite{T: t, h: h, rt: h.Runtime, ctx: ctx}
	if _, err := s.rt.Pull(ctx, h.Image, nil); err != nil {
		t.Fatalf("pull the suite's image: %v", err)
	}
	return s
}

var lastID atomic.Int64

// spec makes a spec with an id of its own and removes the container in the end.
func (s *suite) spec(command ...string) runtime.Spec {
	id := runtime.ID(fmt.Sprintf("rt%d-%d", time.Now().UnixMilli()%1e8, lastID.Add(1)))
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.rt.Remove(ctx, id); err != nil {
			s.Errorf("clean up: %v", err)
		}
	})
	return runtime.Spec{ID: id, Name: string(id), Image: s.h.Image, Command: command}
}

func (s *suite) create(sp runtime.Spec) runtime.Info {
	s.Helper()
	in, err := s.rt.Create(s.ctx, sp)
	if err != nil {
		s.Fatalf("create: %v", err)
	}
	return in
}

func (s *suite) start(id runtime.ID) runtime.Info {
	s.Helper()
	in, err := s.rt.Start(s.ctx, id)
	if err != nil {
		s.Fatalf("start: %v", err)
	}
	return in
}

// run creates and starts a command.
func (s *suite) run(command ...string) runtime.ID {
	s.Helper()
	sp := s.spec(command...)
	s.create(sp)
	s.start(sp.ID)
	return sp.ID
}

// shell runs a script.
func (s *suite) shell(script string) runtime.ID {
	s.Helper()
	return s.run("sh", "-c", script)
}

func (s *suite) inspect(id runtime.ID) runtime.Info {
	s.Helper()
	in, err := s.rt.Inspect(s.ctx, id)
	if err != nil {
		s.Fatalf("inspect: %v", err)
	}
	return in
}

// eventually waits until ok holds.
func (s *suite) eventually(what string, ok func() bool) {
	s.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			s.Fatalf("still not %s after %v", what, patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stopped waits for the end of a container.
func (s *suite) stopped(id runtime.ID) runtime.Info {
	s.Helper()
	var in runtime.Info
	s.eventually("stopped", func() bool {
		in = s.inspect(id)
		return in.State == runtime.Stopped
	})
	return in
}

func (s *suite) wantErr(err, kind error, what string) {
	s.Helper()
	if !errors.Is(err, kind) {
		s.Errorf("%s: got error %v, want %v", what, err, kind)
	}
}

func (s *suite) wantExit(in runtime.Info, code int) {
	s.Helper()
	if in.State != runtime.Stopped || in.ExitCode != code {
		s.Errorf("state %s, exit code %d (error %q); want stopped with %d", in.State, in.ExitCode, in.Error, code)
	}
}

// logs gives what q selects, one line each; it must not follow.
func (s *suite) logs(id runtime.ID, q runtime.LogQuery) []string {
	s.Helper()
	lines := []string{}
	err := s.rt.Logs(s.ctx, id, q, func(l runtime.LogLine) error {
		lines = append(lines, string(l.Text))
		return nil
	})
	if err != nil {
		s.Fatalf("logs: %v", err)
	}
	return lines
}

// logged waits until the log is as wanted: a container's end and its last line may be told in any order.
func (s *suite) logged(id runtime.ID, want ...string) {
	s.Helper()
	end := time.Now().Add(patience)
	for {
		got := s.logs(id, runtime.LogQuery{})
		if fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		if time.Now().After(end) || len(got) > len(want) {
			s.Fatalf("log is %q, want %q", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// buffer is a strings.Builder that a runtime may write to from any goroutine.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
