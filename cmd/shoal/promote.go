package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func promoteCommand() *cli.Command {
	return &cli.Command{
		Name: "promote", Category: categoryRun,
		Usage: "let an update go on whose canaries are good, and wait until the job is healthy", ArgsUsage: "JOB[/SERVICE]",
		Description: "An update of a service with x-canary replaces so many tasks and then waits for this word.\n" +
			"`shoal fail` gives it up instead.\n\nExample: shoal promote shop/web",
		Flags: clientFlags(append(waitFlags(), jsonFlag())...), Action: asking(promote),
	}
}

func failCommand() *cli.Command {
	return &cli.Command{
		Name: "fail", Category: categoryRun,
		Usage: "give up an update that is under way, waits at its canaries or is paused, and go back", ArgsUsage: "JOB[/SERVICE]",
		Description: "What was replaced already goes back to what the update came from, as a new version of the job.\n" +
			"`shoal rollback` goes back after an update has ended.\n\nExample: shoal fail shop/web --reason 'too slow'",
		Flags:  clientFlags(append(waitFlags(), jsonFlag(), &cli.StringFlag{Name: "reason", Usage: "`TEXT` for the history"})...),
		Action: asking(failUpdate),
	}
}

// jobAndService reads JOB[/SERVICE].
func jobAndService(c *cli.Context) (name string, services []string, err error) {
	if err := wantArgs(c, 1, 1); err != nil {
		return "", nil, err
	}
	name, service, one := strings.Cut(c.Args().First(), "/")
	if name == "" || one && service == "" {
		return "", nil, exitf(exitUsage, "%s %s: it takes JOB or JOB/SERVICE", c.Command.Name, c.Args().First())
	}
	if one {
		services = []string{service}
	}
	return name, services, nil
}

func promote(c *cli.Context, s *screen, cl *api.Client) error {
	name, services, err := jobAndService(c)
	if err != nil {
		return err
	}
	return changeEach(c, s, cl, []string{name}, "promoted", func(key, name string) (api.SubmitResult, error) {
		return cl.Promote(c.Context, key, name, api.PromoteRequest{Services: services})
	})
}

func failUpdate(c *cli.Context, s *screen, cl *api.Client) error {
	name, services, err := jobAndService(c)
	if err != nil {
		return err
	}
	return changeEach(c, s, cl, []string{name}, "going back", func(key, name string) (api.SubmitResult, error) {
		return cl.Fail(c.Context, key, name, api.FailRequest{Services: services, Reason: c.String("reason")})
	})
}

func canaries(n int) string {
	if n == 1 {
		return "1 canary"
	}
	return fmt.Sprintf("%d canaries", n)
}

// sayCanaries tells that what was asked for waits for a person.
func (w *waiter) sayCanaries(o *outlook) {
	if w.quiet {
		return
	}
	for _, r := range o.canaries {
		w.s.printf("job %s: %s of %s with version %d well; the others wait: `shoal promote %s/%s` goes on, `shoal fail %s/%s` goes back\n",
			r.Job, canaries(r.Canaries), r.Service, r.Version, r.Job, r.Service, r.Job, r.Service)
	}
}

// heldUpBy is the state of slots that wait, in one word.
func heldUpBy(list *api.TaskList, b *job.Blocked) string {
	i := slices.IndexFunc(list.Rollouts, func(r job.Rollout) bool { return r.Job == b.Job && r.Service == b.Service })
	if i < 0 {
		return "pending"
	}
	switch list.Rollouts[i].Status {
	case job.RolloutCanary:
		return "canary"
	case job.RolloutPaused:
		return "paused"
	}
	return "pending"
}

// remarkIn is a task's remark, with what only the list tells: that it is a canary.
func remarkIn(list *api.TaskList, t *api.Task) string {
	text := remark(t)
	if t.Wait != job.WaitNone && t.Desired == job.DesiredRun {
		text = strings.TrimSuffix(fmt.Sprintf("starts when task %s has ended; %s", t.Replaces, text), "; ")
	}
	for i := range list.Rollouts {
		r := &list.Rollouts[i]
		if r.Job == t.Job && r.Service == t.Service && r.Live() && r.Canaries > 0 && r.Digest == t.Digest && t.Desired == job.DesiredRun {
			return strings.TrimSuffix(fmt.Sprintf("canary of version %d; %s", r.Version, text), "; ")
		}
	}
	return text
}
