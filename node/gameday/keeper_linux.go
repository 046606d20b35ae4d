package gameday

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Config of a Keeper.
type Config struct {
	// DataDir is the agent's; what is ours lies in its directory chaos.
	DataDir string
	Policy  Policy
	// Helper is the command of ours that, with "hold", "backup" or "load" and arguments behind it, becomes Hold, Backup or
	// Load.
	Helper []string
	Logger *slog.Logger
}

// Dir is where the files of game days are in an agent's data directory.
func Dir(dataDir string) string { return filepath.Join(dataDir, "chaos") }

// Errors that a caller may test for.
var (
	ErrForbidden = errors.New("not allowed on this machine")
	ErrBusy      = errors.New("busy")
	ErrNoGame    = errors.New("no such game")
	ErrInvalid   = errors.New("invalid")
)

// Status is what a machine takes part in.
type Status struct {
	Policy   Policy    `json:"policy"`
	Game     *Game     `json:"game,omitempty"`
	Fault    *Record   `json:"fault,omitempty"`
	Outcomes []Outcome `json:"outcomes,omitempty"` // of the game, oldest first
}

// Keeper is the agent's part in game days. Safe for concurrent use.
type Keeper struct {
	cfg   Config
	files files
}

// New makes a Keeper. It touches nothing.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg, files: files{Dir(cfg.DataDir)}} }

// Status reads how things are.
func (k *Keeper) Status() (Status, error) {
	st, err := StatusOf(k.cfg.DataDir)
	st.Policy = k.cfg.Policy
	return st, err
}

// StatusOf reads how things are on a machine whose agent need not run.
func StatusOf(dataDir string) (Status, error) {
	f := files{Dir(dataDir)}
	var st Status
	var err error
	if st.Game, err = read[Game](f, gameFile); err != nil {
		return st, err
	}
	if st.Game != nil && time.Now().After(st.Game.Until) {
		st.Game = nil
	}
	if st.Fault, err = read[Record](f, recordFile); err != nil {
		return st, err
	}
	all, err := read[[]Outcome](f, outcomesFile)
	if all != nil {
		st.Outcomes = *all
	}
	return st, err
}

// Begin takes part in a game; the same game again changes its end. ErrBusy while there is another.
func (k *Keeper) Begin(g Game) error {
	if k.cfg.Policy == Never {
		return fmt.Errorf("%w: its agent was started with --chaos=never", ErrForbidden)
	}
	if !time.Now().Before(g.Until) || time.Until(g.Until) > maxGame {
		return fmt.Errorf("%w: a game ends within %v", ErrInvalid, maxGame)
	}
	unlock, err := k.files.lock()
	if err != nil {
		return err
	}
	defer unlock()
	st, err := k.Status()
	if err != nil {
		return err
	}
	switch {
	case st.Game != nil && st.Game.ID != g.ID:
		return fmt.Errorf("%w: a game that %s began is on until %s; `shoal chaos stop` ends it", ErrBusy, st.Game.By, st.Game.Until.Format(time.TimeOnly))
	case st.Fault != nil && st.Fault.Game != g.ID:
		return fmt.Errorf("%w: %s of an earlier game is not undone yet; `shoal chaos stop` undoes it", ErrBusy, st.Fault.Fault)
	case st.Game == nil:
		if err := k.files.remove(outcomesFile); err != nil {
			return err
		}
	}
	return k.files.write(gameFile, g)
}

// maxGame bounds how long a game may last.
const maxGame = 7 * 24 * time.Hour

// armPatience is how long a helper has to say that it can.
const armPatience = 10 * time.Second

// Start begins a fault of the game and returns when a helper has promised it; it is carried out a moment later.
func (k *Keeper) Start(ctx context.Context, r Request) (Record, error) {
	kind, err := Find(r.Fault)
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch {
	case k.cfg.Policy == Never, kind.Destructive && k.cfg.Policy != Allow:
		return Record{}, fmt.Errorf("%w: its agent was started with --chaos=%s", ErrForbidden, k.cfg.Policy)
	case r.ID == "" || r.Hold < 0 || r.Hold > MaxHold || r.SizeBytes < 0:
		return Record{}, fmt.Errorf("%w: a fault has an id, is held for at most %v, and has no negative size", ErrInvalid, MaxHold)
	}
	rec, err := k.note(r)
	if err != nil {
		return Record{}, err
	}
	if err := k.launch(ctx, r.ID); err != nil {
		_, e := release(k.files, "agent", err)
		return Record{}, errors.Join(err, e)
	}
	k.cfg.Logger.Warn("a game day breaks this node on purpose", "fault", r.Fault, "for", r.Hold, "task", r.Target.Task, "id", r.ID)
	return *rec, nil
}

// note writes down what is going to happen, before anything does.
func (k *Keeper) note(r Request) (*Record, error) {
	unlock, err := k.files.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	st, err := k.Status()
	switch {
	case err != nil:
		return nil, err
	case st.Game == nil || st.Game.ID != r.Game:
		return nil, fmt.Errorf("%w: the game is over on this node, or was stopped", ErrNoGame)
	case st.Fault != nil:
		return nil, fmt.Errorf("%w: %s is under way on this node", ErrBusy, st.Fault.Fault)
	}
	now := time.Now()
	rec := &Record{
		Request: r, Began: now, Deadline: now.Add(lead + r.Hold), DeadlineBoot: bootClock() + armPatience + lead + r.Hold, Boot: bootID(),
		Agent: processOf(os.Getpid()), DataDir: k.cfg.DataDir, Supervised: os.Getenv("INVOCATION_ID") != "", // systemd.exec(5)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	rec.Command = append([]string{exe}, os.Args[1:]...)
	rec.WorkDir, _ = os.Getwd() // "": the helper's own
	return rec, k.files.write(recordFile, rec)
}

// launch starts the helper and waits for its word.
func (k *Keeper) launch(ctx context.Context, id string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(k.cfg.Helper[0], append(k.cfg.Helper[1:len(k.cfg.Helper):len(k.cfg.Helper)], "hold", k.files.dir, id)...)
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return fmt.Errorf("start the helper: %w", err)
	}
	go func() { _ = cmd.Wait() }() // so that it is reaped while we live
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	_ = r.SetReadDeadline(time.Now().Add(armPatience))
	word, err := io.ReadAll(io.LimitReader(r, 4096))
	switch {
	case err != nil:
		_ = cmd.Process.Kill()
		return fmt.Errorf("the helper does not answer: %w", err)
	case string(word) == Armed:
		return nil
	case len(word) == 0:
		return errors.New("the helper ended without a word; its reason is in the agent's log")
	}
	return errors.New(string(word))
}

// Stop undoes what is under way and ends the game; "" is any game. It gives what it undid, nil if there was nothing.
func (k *Keeper) Stop(game string) (*Outcome, error) {
	if game != "" {
		st, err := k.Status()
		if err != nil {
			return nil, err
		}
		if g := st.Game; g != nil && g.ID != game || st.Fault != nil && st.Fault.Game != game {
			return nil, fmt.Errorf("%w: the one that is on is another", ErrNoGame)
		}
	}
	return StopOn(k.cfg.DataDir)
}

// StopOn undoes what is under way on this machine and ends its part in any game, whether its agent runs or not.
func StopOn(dataDir string) (*Outcome, error) {
	f := files{Dir(dataDir)}
	if _, err := os.Stat(f.dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	o, err := release(f, "stop", nil)
	if err != nil {
		return o, err
	}
	unlock, err := f.lock()
	if err != nil {
		return o, err
	}
	defer unlock()
	f.sweep()
	return o, errors.Join(f.remove(gameFile), f.remove(outcomesFile))
}

// release ends who holds the fault and undoes it.
func release(f files, by string, cause error) (*Outcome, error) {
	unlock, err := f.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	r, err := read[Record](f, recordFile)
	if err != nil || r == nil {
		return nil, err
	}
	c := &carried{rec: r, files: f}
	var proof string
	if r.Acted {
		proof = c.proof()
	}
	err = finishLocked(f, r, by, proof, cause, func() {
		_, _ = r.Helper.kill(), r.Backup.kill() // undone it is in any case; who does not die is told by the next status
	})
	return &Outcome{ID: r.ID, Game: r.Game, Fault: r.Fault, Task: r.Target.Task, Began: r.Began, Undone: time.Now(), By: by, Proof: proof}, err
}

// How often the agent looks for leftovers, and how late those who hold a fault may be before it takes them for gone.
const (
	lookEvery = time.Second
	lookLate  = 5 * time.Second
)

// Run undoes what nobody holds any more: after a reboot, or when the helpers were killed. It returns when ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := k.look(); err != nil {
			k.cfg.Logger.Error("a fault of a game day cannot be undone; `shoal chaos stop --local` tries again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (k *Keeper) look() error {
	r, err := read[Record](k.files, recordFile)
	if err != nil || r == nil {
		return err
	}
	held := r.Boot == bootID() && (r.Helper.alive() || r.Backup.alive())
	if r.Helper.PID == 0 { // it is about to be, unless the agent died between the two
		held = r.Agent.alive() && bootClock() < r.DeadlineBoot
	}
	if held && bootClock() < r.DeadlineBoot+lookLate+supervisedGrace {
		return nil
	}
	o, err := release(k.files, "agent", nil)
	if err == nil && o != nil {
		k.cfg.Logger.Warn("undone: what a game day had left on this node", "fault", o.Fault, "id", o.ID)
	}
	return err
}
