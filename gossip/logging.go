package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// memberlistLogger turns memberlist's lines into records. Its levels are one step too loud for us: an "[ERR]" is one
// failed probe of one peer, which its state and our events tell better.
func memberlistLogger(to *slog.Logger) *log.Logger {
	return log.New(lineWriter{to}, "", 0)
}

type lineWriter struct{ log *slog.Logger }

var linePrefixes = []struct {
	prefix string
	level  slog.Level
}{
	{"[ERR] ", slog.LevelInfo},
	{"[WARN] ", slog.LevelInfo},
	{"[INFO] ", slog.LevelDebug},
	{"[DEBUG] ", slog.LevelDebug - 4},
}

// Write takes one line.
func (w lineWriter) Write(line []byte) (int, error) {
	n := len(line)
	level := slog.LevelInfo
	for _, p := range linePrefixes {
		if rest, ok := bytes.CutPrefix(line, []byte(p.prefix)); ok {
			level, line = p.level, rest
			break
		}
	}
	if w.log.Enabled(context.Background(), level) {
		line = bytes.TrimPrefix(bytes.TrimSpace(line), []byte("memberlist: "))
		w.log.Log(context.Background(), level, "gossip: "+string(line))
	}
	return n, nil
}
