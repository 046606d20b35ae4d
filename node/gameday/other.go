//go:build !linux

package gameday

import (
	"context"
	"errors"
	"log/slog"
)

// Elsewhere than on Linux nothing is broken: no agent runs there.

// Config of a Keeper.
type Config struct {
	DataDir string
	Policy  Policy
	Helper  []string
	Logger  *slog.Logger
}

// Status is what a machine takes part in.
type Status struct {
	Policy   Policy
	Game     *Game
	Fault    *Record
	Outcomes []Outcome
}

// Process is one that we know.
type Process struct{}

// Keeper is the agent's part in game days.
type Keeper struct{}

// Errors that a caller may test for.
var (
	ErrForbidden = errors.New("not allowed on this machine")
	ErrBusy      = errors.New("busy")
	ErrNoGame    = errors.New("no such game")
	ErrInvalid   = errors.New("invalid")
)

var errLinux = errors.New("game days take Linux")

// New makes a Keeper.
func New(Config) *Keeper { return &Keeper{} }

// Status says that nothing is allowed.
func (*Keeper) Status() (Status, error) { return Status{Policy: Never}, nil }

// Begin refuses.
func (*Keeper) Begin(Game) error { return errLinux }

// Start refuses.
func (*Keeper) Start(context.Context, Request) (Record, error) { return Record{}, errLinux }

// Stop has nothing to undo.
func (*Keeper) Stop(string) (*Outcome, error) { return nil, nil }

// Run waits for ctx to end.
func (*Keeper) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
