package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"shoal/node/api"
)

const defaultDetachKeys = "ctrl-p,ctrl-q"

func detachKeysFlag() cli.Flag {
	return &cli.StringFlag{Name: "detach-keys", Value: defaultDetachKeys, EnvVars: []string{"SHOAL_DETACH_KEYS"},
		Usage: "`KEYS` that leave a terminal session, such as ctrl-a,d; none: none do"}
}

// parseKeys reads docker's words: letters, and ctrl- with a letter or one of @ [ \ ] ^ _, with commas between.
func parseKeys(text string) ([]byte, error) {
	if text == "" || text == "none" {
		return nil, nil
	}
	var keys []byte
	for _, word := range strings.Split(text, ",") {
		letter, ctrl := strings.CutPrefix(strings.ToLower(word), "ctrl-")
		switch {
		case ctrl && len(letter) == 1 && (letter[0] >= 'a' && letter[0] <= 'z'):
			keys = append(keys, letter[0]-'a'+1)
		case ctrl && letter == "@":
			keys = append(keys, 0)
		case ctrl && len(letter) == 1 && letter[0] >= '[' && letter[0] <= '_':
			keys = append(keys, letter[0]-'@')
		case !ctrl && len(word) == 1:
			keys = append(keys, word[0])
		default:
			return nil, exitf(exitUsage, "--detach-keys %s: %q is no key; it takes keys such as a or ctrl-p with commas between them", text, word)
		}
	}
	return keys, nil
}

// keyWatch passes on what is typed until the detach keys come. A part of them is held back until it is clear that it is
// none.
type keyWatch struct {
	from io.Reader
	keys []byte
	left func() // called once, when they came

	held  []byte // the beginning of keys
	ready []byte // to be passed on
	end   error
	over  <-chan struct{} // of the session
}

func (k *keyWatch) Read(p []byte) (int, error) {
	for len(k.ready) == 0 {
		if k.end != nil {
			return 0, k.end
		}
		buf := make([]byte, 4096)
		n, err := k.from.Read(buf)
		k.end = err
		for _, b := range buf[:n] {
			if k.match(b) {
				k.left()
				<-k.over // the end of the session is no end of the input
				return 0, io.ErrClosedPipe
			}
		}
		if err != nil {
			k.ready, k.held = append(k.ready, k.held...), nil
		}
	}
	n := copy(p, k.ready)
	k.ready = k.ready[n:]
	return n, nil
}

// match takes one more byte; true when the keys are complete.
func (k *keyWatch) match(b byte) bool {
	k.held = append(k.held, b)
	for !bytes.HasPrefix(k.keys, k.held) {
		k.ready, k.held = append(k.ready, k.held[0]), k.held[1:]
	}
	return len(k.held) == len(k.keys)
}

// seat is a person's terminal for the time of a session.
type seat struct {
	size    *api.Size
	now     func() *api.Size // its size at a later time; nil without a terminal
	env     []string
	restore func() // may be called more than once
}

// sit makes the person's terminal one for what runs: raw, with its size and the detach keys passed on. Without a terminal,
// or without one wanted, it changes nothing.
func sit(ctx context.Context, st *api.ClientStreams, stdin io.Reader, tty bool, detachKeys string) (*seat, error) {
	keys, err := parseKeys(detachKeys)
	if err != nil {
		return nil, err
	}
	out := &seat{restore: func() {}}
	if !tty || !isTerminal(stdin) {
		return out, nil
	}
	fd := int(stdin.(*os.File).Fd())
	if t := os.Getenv("TERM"); t != "" {
		out.env = []string{"TERM=" + t}
	}
	out.now = func() *api.Size { return sizeOf(fd) }
	out.size = out.now()
	if st.Stdin != nil {
		before, err := term.MakeRaw(fd)
		if err != nil {
			return nil, err
		}
		over := make(chan struct{})
		out.restore = sync.OnceFunc(func() {
			close(over)
			_ = term.Restore(fd, before) // nothing is left to do if it fails
		})
		if len(keys) > 0 {
			left := make(chan struct{})
			st.Detach = left
			st.Stdin = &keyWatch{from: st.Stdin, keys: keys, left: func() { close(left) }, over: over}
		}
	}
	st.Resize = watchSize(ctx, fd)
	return out, nil
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func sizeOf(fd int) *api.Size {
	w, h, err := term.GetSize(fd)
	if err != nil {
		return nil
	}
	return &api.Size{Rows: uint16(h), Cols: uint16(w)} //nolint:gosec // the kernel keeps both in 16 bits
}

// watchSize sends the terminal's size after each change. Its goroutine lives as long as the process, which ends with the
// command.
func watchSize(ctx context.Context, fd int) <-chan api.Size {
	changed, sizes := make(chan os.Signal, 1), make(chan api.Size)
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			size := sizeOf(fd)
			if size == nil {
				continue
			}
			select {
			case sizes <- *size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
