package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"shoal/e2e/machines"
)

// stage is where the demo is shown: coloured on a terminal, plain in a pipe.
type stage struct {
	out    *os.File
	colour bool
	begun  time.Time
	steps  int
	hangUp context.CancelCauseFunc // ends the demo when nobody reads on; nil: nothing to end
}

// errReaderGone is why the demo ends when its output cannot be written.
var errReaderGone = errors.New("nobody reads the output")

// Styles: SGR codes (ECMA-48, 8.3.117).
const (
	bold   = "1"
	dim    = "2"
	red    = "1;31"
	green  = "32"
	yellow = "33"
	blue   = "1;34"
	cyan   = "36"
)

func newStage() *stage {
	s := &stage{out: os.Stdout, begun: time.Now()}
	s.colour = term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	// Go ends a process that writes to a closed pipe at descriptor 1 or 2; at another one it is an error, and there is
	// time to clean up.
	if fd, err := syscall.Dup(int(os.Stdout.Fd())); err == nil {
		syscall.CloseOnExec(fd)
		s.out = os.NewFile(uintptr(fd), "stdout")
	}
	return s
}

func (s *stage) paint(style, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

func (s *stage) print(text string) {
	if _, err := io.WriteString(s.out, text); err != nil && s.hangUp != nil {
		s.hangUp(errReaderGone)
	}
}

// title heads the whole.
func (s *stage) title(text string) {
	s.print(s.paint(bold, text) + "\n")
}

// step begins a scene.
func (s *stage) step(text string) {
	s.steps++
	s.print(fmt.Sprintf("\n%s %s\n", s.paint(blue, fmt.Sprintf("%d. %s", s.steps, text)), s.paint(dim, fmt.Sprintf("(%.1f s)", time.Since(s.begun).Seconds()))))
}

// say is one line of explanation; tell is one of news.
func (s *stage) say(format string, args ...any) {
	s.print(s.paint(dim, fmt.Sprintf("   "+format, args...)) + "\n")
}

func (s *stage) tell(style, format string, args ...any) {
	s.print("   " + s.paint(style, fmt.Sprintf(format, args...)) + "\n")
}

func (s *stage) problem(text string) {
	fmt.Fprintln(os.Stderr, s.paint(red, "demo: "+text))
}

// typed shows what a person would type on a machine.
func (s *stage) typed(machine, command string) {
	s.print(s.paint(cyan, machine+"$") + " " + s.paint(bold, command) + "\n")
}

// shoal runs a verb against a machine's agent and shows both.
func (s *stage) shoal(ctx context.Context, binary string, m *machines.Machine, args ...string) error {
	s.typed(m.Name, "shoal "+strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "SHOAL_HOST="+m.Socket())
	cmd.Stdout, cmd.Stderr = s.out, s.out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("shoal %s on %s: %w", strings.Join(args, " "), m.Name, err)
	}
	return ctx.Err()
}
