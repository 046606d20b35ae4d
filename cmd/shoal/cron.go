package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func cronCommand() *cli.Command {
	return &cli.Command{
		Name: "cron", Category: categoryRun,
		Usage: "look at schedules, run one now, pause and resume them",
		Description: "A service with x-schedule in its Compose file is a batch that runs by it; `shoal run --schedule` makes one without\n" +
			"a file.\n\nExamples:\n  shoal cron ls\n  shoal cron run shop/backup\n  shoal cron pause shop/backup",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list schedules with their next and last runs", Description: "Example: shoal cron ls",
				Flags: clientFlags(jsonFlag()), Action: asking(cronList),
			},
			{
				Name: "run", Usage: "begin a run now, and wait for its end", ArgsUsage: "JOB/SERVICE",
				Description: "It runs whatever else of it is under way, and leaves the schedule as it is. For a batch without a schedule it is another\n" +
					"run of the same content. The exit code is that of the program whose failure ended the run, 124 if its deadline did.\n\n" +
					"Example: shoal cron run shop/backup",
				Flags: clientFlags(&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait"}, jsonFlag()), Action: asking(cronRun),
			},
			{
				Name: "stop", Usage: "stop runs that are under way", ArgsUsage: "JOB/SERVICE",
				Description: "Example: shoal cron stop shop/backup",
				Flags:       clientFlags(&cli.Uint64Flag{Name: "run", Usage: "only the run of this `NUMBER`"}), Action: asking(cronStop),
			},
			{
				Name: "pause", Usage: "begin no more runs", ArgsUsage: "JOB/SERVICE...",
				Description: "A run that is under way goes on. `shoal cron run` still works.\n\nExample: shoal cron pause shop/backup",
				Flags:       clientFlags(), Action: asking(func(c *cli.Context, s *screen, cl *api.Client) error { return cronPause(c, s, cl, true) }),
			},
			{
				Name: "resume", Usage: "let a paused schedule go on", ArgsUsage: "JOB/SERVICE...",
				Description: "What was due while it was paused is not made up for.\n\nExample: shoal cron resume shop/backup",
				Flags:       clientFlags(), Action: asking(func(c *cli.Context, s *screen, cl *api.Client) error { return cronPause(c, s, cl, false) }),
			},
			{
				Name: "history", Usage: "list the runs that are kept, of all batches or of one", ArgsUsage: "[JOB[/SERVICE]]",
				Description: "Example: shoal cron history shop/backup",
				Flags:       clientFlags(jsonFlag()), Action: asking(cronHistory),
			},
		},
	}
}

// serviceRef reads JOB/SERVICE, or JOB where the job has one batch only.
func serviceRef(c *cli.Context, cl *api.Client, text string) (jobName, service string, err error) {
	jobName, service, two := strings.Cut(text, "/")
	if jobName == "" || two && service == "" {
		return "", "", exitf(exitUsage, "%q: it takes JOB/SERVICE, such as shop/backup", text)
	}
	if two {
		return jobName, service, nil
	}
	d, err := cl.Job(c.Context, jobName, false)
	if err != nil {
		return "", "", err
	}
	var batches []string
	for i := range d.Job.Spec.Services {
		if s := &d.Job.Spec.Services[i]; s.IsBatch() {
			batches = append(batches, s.Name)
		}
	}
	switch len(batches) {
	case 0:
		return "", "", exitf(exitInvalid, "job %s has no batch and no schedule", jobName)
	case 1:
		return jobName, batches[0], nil
	}
	return "", "", exitf(exitUsage, "job %s has %d batches, say which: %s/%s", jobName, len(batches), jobName, strings.Join(batches, ", "+jobName+"/"))
}

func cronList(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	list, err := cl.Schedules(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(list)
	}
	s.stale(list.Stale, list.Index)
	s.table(scheduleTable(&list, time.Now()))
	return nil
}

func scheduleTable(list *api.ScheduleList, now time.Time) *table {
	t := newTable("JOB", "SCHEDULE", "ZONE", "OVERLAP", "NEXT", "ACTIVE", "LAST RUN", "RESULT", "LEFT OUT")
	for i := range list.Schedules {
		v := &list.Schedules[i]
		next := cell{"-", dim}
		switch {
		case v.Stopped:
			next.text = "job is stopped"
		case v.Paused:
			next = cell{"paused", yellow}
		case !v.Next.IsZero():
			next = cell{inZone(v.Next, v.TimeZone).Format("2006-01-02 15:04 MST"), ""}
		}
		last, result := "-", cell{"-", dim}
		if r := v.LastRun; r != nil {
			last, result = ageOf(r.Created, now)+" ago", runCell(r)
		}
		skipped := "-"
		if v.Skipped > 0 {
			skipped = fmt.Sprintf("%d, the last because %s", v.Skipped, v.SkipReason)
		}
		t.add(v.Job+"/"+v.Service, v.Schedule.Cron, v.TimeZone, string(v.Overlap), next, v.Active, last, result, skipped)
	}
	return t
}

func inZone(t time.Time, zone string) time.Time {
	if loc, err := time.LoadLocation(zone); err == nil {
		return t.In(loc)
	}
	return t.UTC()
}

func cronRun(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	name, service, err := serviceRef(c, cl, c.Args().First())
	if err != nil {
		return err
	}
	key := api.NewKey()
	var res api.RunResult
	err = persist(c.Context, s, cl, func() (err error) {
		res, err = cl.StartRun(c.Context, key, name, service)
		return err
	})
	if err != nil {
		return err
	}
	run := &res.Run
	if !c.Bool("json") {
		s.printf("%s/%s: run %d begins\n", name, service, run.Seq)
	}
	if !c.Bool("detach") {
		if run, err = awaitRun(c, s, cl, run, res.Index); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		if err := s.json(run); err != nil {
			return err
		}
	}
	switch {
	case run.Active():
		return nil
	case run.Status == job.RunComplete:
		if !c.Bool("json") {
			s.printf("%s/%s: run %d is complete after %s\n", name, service, run.Seq, millis(max(run.Ended.Sub(run.Began), 0)))
		}
		return nil
	}
	return exitf(exitCodeOf([]trouble{{run: run}}), "%s/%s: run %d is %s: %s; `shoal logs %s/%s` and `shoal ps -a %s` tell more",
		name, service, run.Seq, run.Status, run.Reason, name, service, name)
}

// awaitRun waits for the end of a run.
func awaitRun(c *cli.Context, s *screen, cl *api.Client, run *job.Run, index uint64) (*job.Run, error) {
	q := api.TaskQuery{Job: run.Job, Service: run.Service}
	if index > 0 {
		q.After, q.Wait = index-1, pollWait
	}
	for {
		var list api.TaskList
		err := outlast(c.Context, s, func() (err error) {
			list, err = cl.Tasks(c.Context, q)
			return err
		})
		switch {
		case c.Context.Err() != nil:
			return run, exitf(exitInterrupted, "stopped waiting; run %d of %s/%s goes on: `shoal cron stop %s/%s` stops it", run.Seq, run.Job, run.Service, run.Job, run.Service)
		case err != nil:
			return run, err
		case list.Index < index || list.Stale:
			if err := pause(c.Context, retryPause); err != nil {
				return run, err
			}
			continue
		}
		now := list.RunOf(run.Service, run.Seq)
		if now == nil {
			return run, exitf(exitFailed, "run %d of %s/%s is forgotten, and with it how it ended", run.Seq, run.Job, run.Service)
		}
		if run = now; !run.Active() {
			return run, nil
		}
		q.After, q.Wait = list.Index, pollWait
	}
}

func cronStop(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	name, service, err := serviceRef(c, cl, c.Args().First())
	if err != nil {
		return err
	}
	if err := persist(c.Context, s, cl, func() error { return cl.StopRun(c.Context, name, service, c.Uint64("run")) }); err != nil {
		return err
	}
	s.printf("%s/%s: stopped\n", name, service)
	return nil
}

func cronPause(c *cli.Context, s *screen, cl *api.Client, paused bool) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	word := "resumed"
	if paused {
		word = "paused"
	}
	for _, arg := range c.Args().Slice() {
		name, service, err := serviceRef(c, cl, arg)
		if err != nil {
			return err
		}
		if err := persist(c.Context, s, cl, func() error { return cl.PauseSchedule(c.Context, name, service, paused) }); err != nil {
			return err
		}
		s.printf("%s/%s: %s\n", name, service, word)
	}
	return nil
}

func cronHistory(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 1); err != nil {
		return err
	}
	name, service, _ := strings.Cut(c.Args().First(), "/")
	list, err := cl.Tasks(c.Context, api.TaskQuery{Job: name, Service: service})
	if err != nil {
		return err
	}
	runs := []job.Run{}
	for _, r := range list.Runs {
		if service == "" || r.Service == service {
			runs = append(runs, r)
		}
	}
	if c.Bool("json") {
		return s.json(runs)
	}
	s.stale(list.Stale, list.Index)
	s.table(runTable(runs, time.Now()))
	return nil
}
