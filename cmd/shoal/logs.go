package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func logsCommand() *cli.Command {
	return &cli.Command{
		Name: "logs", Category: categoryLook,
		Usage:     "show what tasks wrote",
		ArgsUsage: "TARGET...",
		Description: "TARGET is a task's id or its beginning, JOB, JOB/SERVICE or JOB/SERVICE.NUMBER. The lines of several tasks are\n" +
			"merged by time. With -f new tasks of a job are followed as they come.\n\n" +
			"Examples:\n  shoal logs web/front.1 --tail 20\n  shoal logs -f web",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what is written from now on, until Ctrl-C"},
			&cli.StringFlag{Name: "tail", Aliases: []string{"n"}, Value: "all", Usage: "only the last `LINES` of each task"},
			&cli.StringFlag{Name: "since", Usage: "only what is younger than a `TIME`: 10m, or 2026-01-02T15:04:05Z"},
			&cli.BoolFlag{Name: "timestamps", Aliases: []string{"t"}, Usage: "begin each line with its time"},
			jsonFlag(),
		),
		Action: asking(logs),
	}
}

func logs(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	q, err := logQuery(c, time.Now())
	if err != nil {
		return err
	}
	targets := make([]target, c.NArg())
	for i, t := range c.Args().Slice() {
		targets[i] = parseTarget(t)
	}
	p := &logPrinter{s: s, timestamps: c.Bool("timestamps"), json: c.Bool("json")}
	if q.Follow {
		f := &follower{s: s, cl: cl, targets: targets, query: q, printer: p, open: map[job.TaskID]*attachment{}}
		return f.run(c.Context)
	}
	list, err := cl.Tasks(c.Context, api.TaskQuery{All: true})
	if err != nil {
		return err
	}
	tasks, err := pick(targets, list.Tasks)
	if err != nil {
		return err
	}
	return mergeLogs(c.Context, cl, tasks, q, p)
}

func logQuery(c *cli.Context, now time.Time) (api.LogQuery, error) {
	q := api.LogQuery{Follow: c.Bool("follow")}
	if tail := c.String("tail"); tail != "all" {
		n, err := strconv.Atoi(tail)
		if err != nil || n < 0 {
			return q, exitf(exitUsage, "--tail %s: it takes a number of lines, or all", tail)
		}
		q.Tail = n
		if n == 0 {
			q.Tail = -1 // none
		}
	}
	if since := c.String("since"); since != "" {
		at, err := parseSince(since, now)
		if err != nil {
			return q, err
		}
		q.Since = at
	}
	return q, nil
}

// parseSince takes a span before now, or a time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return at, nil
		}
	}
	return time.Time{}, exitf(exitUsage, "--since %s: it takes a span such as 10m, or a time such as 2026-01-02T15:04:05Z", text)
}

// target is what a person called tasks by.
type target struct {
	text     string
	job      string // "" when it may be an id
	service  string
	slot     string // "2", or a node's name for a global service
	explicit bool   // one slot or one task, not all of a job
}

// parseTarget reads ID, JOB, JOB/SERVICE and JOB/SERVICE.SLOT. A text without a slash is tried as a job first.
func parseTarget(text string) target {
	jobName, rest, scoped := strings.Cut(text, "/")
	if !scoped {
		return target{text: text}
	}
	service, slot, slotted := strings.Cut(rest, ".")
	return target{text: text, job: jobName, service: service, slot: slot, explicit: slotted}
}

func (t *target) matches(task *api.Task) bool {
	if t.job == "" {
		return task.Job == t.text
	}
	return task.Job == t.job && (t.service == "" || task.Service == t.service) && (!t.explicit || task.Name == t.service+"."+t.slot)
}

// pick chooses the tasks whose logs are meant: of each slot the one that is meant to run, else its newest. An id chooses
// its task whatever became of it. The order is that of tasks.
func pick(targets []target, tasks []api.Task) ([]api.Task, error) {
	chosen := map[job.TaskID]bool{}
	for _, t := range targets {
		ids, err := t.pick(tasks)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			chosen[id] = true
		}
	}
	var out []api.Task
	for _, t := range tasks {
		if chosen[t.ID] {
			out = append(out, t)
		}
	}
	return out, nil
}

func (t *target) pick(tasks []api.Task) ([]job.TaskID, error) {
	best := map[string]*api.Task{}
	for i := range tasks {
		task := &tasks[i]
		if b := best[fullName(task)]; t.matches(task) && (b == nil || better(task, b)) {
			best[fullName(task)] = task
		}
	}
	var ids []job.TaskID
	for _, task := range best {
		ids = append(ids, task.ID)
	}
	if len(ids) > 0 {
		return ids, nil
	}
	if t.job == "" && t.text != "" {
		for i := range tasks {
			if strings.HasPrefix(string(tasks[i].ID), t.text) {
				ids = append(ids, tasks[i].ID)
			}
		}
	}
	switch len(ids) {
	case 0:
		return nil, job.Errorf(job.NotFound, "%s: there is no such task or job, or it has no tasks; `shoal ps --all` lists them", t.text)
	case 1:
		return ids, nil
	}
	return nil, job.Errorf(job.Conflict, "%s: the ids of %d tasks begin so; give more of it", t.text, len(ids))
}

// better orders the tasks of one slot: meant to run, then the newest.
func better(a, b *api.Task) bool {
	if ra, rb := a.Desired == job.DesiredRun, b.Desired == job.DesiredRun; ra != rb {
		return ra
	}
	return a.Index > b.Index
}
