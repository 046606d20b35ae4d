package main

import (
	"context"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

// defaultSocket is where the agent of this machine listens for people.
const defaultSocket = "/run/shoal/shoal.sock"

func hostFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "host", Aliases: []string{"H"}, EnvVars: []string{"SHOAL_HOST"}, Value: defaultSocket,
		Usage: "agent to ask: path of its `SOCKET`",
	}
}

// clientFlags are those of a verb that asks an agent: its own, and --host once more, so that it may follow the verb.
func clientFlags(own ...cli.Flag) []cli.Flag {
	return append(own, &cli.StringFlag{Name: "host", Aliases: []string{"H"}, Usage: "agent to ask: path of its `SOCKET`", DefaultText: defaultSocket})
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print what the agent answered, for programs"}
}

// dial makes a client of the agent that --host names, the one nearest to the verb.
func dial(c *cli.Context) (*api.Client, error) {
	host := defaultSocket
	for _, level := range c.Lineage() {
		if h := level.String("host"); h != "" {
			host = h
			break
		}
	}
	if strings.HasPrefix(host, "https://") {
		return nil, job.Errorf(job.Invalid, "--host %s: this version reaches an agent through its unix socket only; run shoal on a node, or forward the socket with ssh -L", host)
	}
	return api.DialUnix(strings.TrimPrefix(host, "unix://")), nil
}

// asking makes an action of what a verb does with an agent and a screen.
func asking(do func(c *cli.Context, s *screen, cl *api.Client) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		cl, err := dial(c)
		if err != nil {
			return err
		}
		defer cl.Close()
		return do(c, newScreen(c), cl)
	}
}

// Bounds of trying again while the cluster has no leader. An agent itself waits four seconds through an election, and a
// change without a quorum should have failed within five.
const (
	changeFor  = time.Second      // for a change
	retryFor   = 30 * time.Second // for who follows, and may see an agent restart
	retryPause = 500 * time.Millisecond
)

// persist tries until it works, as long as the agent itself answers and only the cluster cannot: an election takes a
// moment. do must be safe to repeat.
func persist(ctx context.Context, s *screen, cl *api.Client, do func() error) error {
	return tryAgain(ctx, s, changeFor, do, func() bool {
		_, err := cl.Status(ctx)
		return err == nil
	})
}

// outlast is persist for who has had answers already: also the agent may go for a moment, such as for an upgrade.
func outlast(ctx context.Context, s *screen, do func() error) error {
	return tryAgain(ctx, s, retryFor, do, func() bool { return true })
}

func tryAgain(ctx context.Context, s *screen, limit time.Duration, do func() error, sensible func() bool) error {
	deadline := time.Now().Add(limit)
	for told := false; ; {
		err := do()
		if job.KindOf(err) != job.Unavailable || ctx.Err() != nil || time.Now().After(deadline) || !sensible() {
			return err
		}
		if !told {
			s.note("%v; trying again for %v", err, limit)
			told = true
		}
		if err := pause(ctx, retryPause); err != nil {
			return err
		}
	}
}

// pause waits, or gives ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
