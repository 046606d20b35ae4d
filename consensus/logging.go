package consensus

import (
	"context"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// bridge carries raft's log lines into slog. Raft tells its inner life at info and repeats itself at error while a peer
// is away; people want to hear of changes, which the Log tells itself. So everything moves down: info to debug, warnings
// and errors about one peer's unreachability to debug, other errors to warn (what is fatal comes out of Run).
type bridge struct {
	out  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*bridge)(nil)

// repeated are lines that come again and again while a node is away or an election is under way.
var repeated = map[string]bool{
	"failed to heartbeat to":                                        true,
	"failed to appendEntries to":                                    true,
	"failed to pipeline appendEntries":                              true,
	"failed to start pipeline replication to":                       true,
	"failed to contact":                                             true,
	"failed to make requestVote RPC":                                true,
	"failed to decode incoming command":                             true,
	"failed to flush response":                                      true,
	"failed to accept connection":                                   true,
	"failed to send snapshot to":                                    true,
	"appendEntries rejected, sending older logs":                    true,
	"rejecting pre-vote request since we have a leader":             true,
	"rejecting vote request since we have a leader":                 true,
	"rejecting pre-vote request since node is not in configuration": true,
	"rejecting vote request since node is not in configuration":     true,
	"heartbeat timeout reached, starting election":                  true,
	"Election timeout reached, restarting election":                 true,
	"no known peers, aborting election":                             true,
	"not part of stable configuration, aborting election":           true,
	"heartbeat timeout reached, not part of a stable configuration or a non-voter, not triggering a leader election": true,
	"failed to get previous log":                               true,
	"unable to get address for server, using fallback address": true,
	"previous log term mis-match":                              true,
	"skipping application of old log":                          true,
}

func (b *bridge) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	if (level == hclog.Warn || level == hclog.Error) && !repeated[msg] {
		to = slog.LevelWarn
	}
	if !b.out.Enabled(context.Background(), to) {
		return
	}
	b.out.Log(context.Background(), to, "raft: "+msg, append(b.args[:len(b.args):len(b.args)], args...)...)
}

func (b *bridge) Trace(msg string, args ...any) {}
func (b *bridge) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }
func (b *bridge) Info(msg string, args ...any)  { b.Log(hclog.Info, msg, args...) }
func (b *bridge) Warn(msg string, args ...any)  { b.Log(hclog.Warn, msg, args...) }
func (b *bridge) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b *bridge) IsTrace() bool { return false }
func (b *bridge) IsDebug() bool { return b.out.Enabled(context.Background(), slog.LevelDebug) }
func (b *bridge) IsInfo() bool  { return b.IsDebug() }
func (b *bridge) IsWarn() bool  { return true }
func (b *bridge) IsError() bool { return true }

func (b *bridge) ImpliedArgs() []any { return b.args }
func (b *bridge) Name() string       { return b.name }

func (b *bridge) With(args ...any) hclog.Logger {
	return &bridge{b.out, b.name, append(b.args[:len(b.args):len(b.args)], args...)}
}

func (b *bridge) Named(name string) hclog.Logger      { return &bridge{b.out, name, b.args} }
func (b *bridge) ResetNamed(name string) hclog.Logger { return b.Named(name) }

// SetLevel does nothing: slog's handler decides.
func (b *bridge) SetLevel(hclog.Level)  {}
func (b *bridge) GetLevel() hclog.Level { return hclog.Debug }

func (b *bridge) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(b.StandardWriter(opts), "", 0)
}

func (b *bridge) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{b} }

type lineWriter struct{ b *bridge }

func (w lineWriter) Write(p []byte) (int, error) {
	w.b.Debug(string(p))
	return len(p), nil
}
