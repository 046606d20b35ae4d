package main

import (
	"bytes"
	"context"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func psCommand() *cli.Command {
	return &cli.Command{
		Name: "ps", Category: categoryLook,
		Usage:       "list tasks, of all jobs or of one",
		ArgsUsage:   "[JOB]",
		Description: "What could not be placed is listed too, with the reason.\n\nExamples:\n  shoal ps\n  shoal ps web --watch",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also tasks that ended and are still known"},
			&cli.StringFlag{Name: "service", Usage: "only tasks of this `SERVICE`"},
			&cli.StringFlag{Name: "node", Usage: "only tasks on this `NODE`, by name or id"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "go on showing them until Ctrl-C"},
			jsonFlag(),
		),
		Action: asking(ps),
	}
}

func ps(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 1); err != nil {
		return err
	}
	q := api.TaskQuery{Job: c.Args().First(), Service: c.String("service"), All: c.Bool("all")}
	if name := c.String("node"); name != "" {
		n, err := findNode(c.Context, cl, name)
		if err != nil {
			return err
		}
		q.Node = n.ID
	}
	if c.Bool("watch") {
		return watchTasks(c, s, cl, q)
	}
	list, err := cl.Tasks(c.Context, q)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(list)
	}
	s.stale(list.Stale, list.Index)
	images := newImages(cl)
	images.learn(c.Context, &list)
	if len(list.Tasks)+len(list.Blocked)+len(list.Runs) == 0 {
		sayNothing(s, q)
		return nil
	}
	s.table(taskTable(&list, images, time.Now()))
	return nil
}

// sayNothing explains an empty list to a person; a pipe just gets the headings.
func sayNothing(s *screen, q api.TaskQuery) {
	if !s.terminal {
		s.table(taskTable(&api.TaskList{}, newImages(nil), time.Time{}))
		return
	}
	switch {
	case q.Job != "":
		s.printf("no tasks of job %s; `shoal ps %s --all` shows those that ended\n", q.Job, q.Job)
	default:
		s.printf("no tasks; `shoal run -f compose.yaml` submits a job\n")
	}
}

// watchRefresh is how often ages are drawn anew on a terminal when nothing changes.
const watchRefresh = 5 * time.Second

func watchTasks(c *cli.Context, s *screen, cl *api.Client, q api.TaskQuery) error {
	images := newImages(cl)
	for {
		var list api.TaskList
		ask := func() (err error) {
			list, err = cl.Tasks(c.Context, q)
			return err
		}
		var err error
		if q.After == 0 {
			err = persist(c.Context, s, cl, ask)
		} else {
			err = outlast(c.Context, s, ask)
		}
		if c.Context.Err() != nil {
			return nil // Ctrl-C is how a watch ends
		}
		if err != nil {
			return err
		}
		changed := list.Index != q.After
		switch {
		case c.Bool("json") && changed:
			err = s.jsonLine(list)
		case s.terminal || changed:
			images.learn(c.Context, &list)
			drawTasks(s, &list, images)
		}
		if err != nil {
			return err
		}
		q.After, q.Wait = list.Index, watchRefresh
		if list.Stale { // a node without a leader answers at once
			if err := pause(c.Context, retryPause); err != nil {
				return nil //nolint:nilerr // Ctrl-C
			}
		}
	}
}

// drawTasks draws on a clean terminal, in one write so that it does not flicker, and as one more table elsewhere.
func drawTasks(s *screen, list *api.TaskList, images *imageNames) {
	var b bytes.Buffer
	buffered := *s
	buffered.out = &b
	buffered.table(taskTable(list, images, time.Now()))
	if s.terminal {
		head := s.paint(dim, "every change until Ctrl-C; "+strconv.Itoa(list.Ready)+" of "+plural(list.Want, "task")+" ready")
		s.printf("\x1b[H\x1b[2J%s\n\n%s", head, b.String())
	} else {
		s.printf("%s\n", b.String())
	}
	s.stale(list.Stale, list.Index)
}

// taskTable lists tasks and, after the tasks of its job, what could not be placed.
func taskTable(list *api.TaskList, images *imageNames, now time.Time) *table {
	t := newTable("ID", "NAME", "NODE", "STATE", "IMAGE", "PORTS", "RESTARTS", "MESSAGE")
	for i := range list.Tasks {
		task := &list.Tasks[i]
		ports, restarts := "", ""
		if task.Status != nil {
			ports, restarts = portList(task.Status.Ports), strconv.Itoa(task.Status.Restarts)
		}
		t.add(string(task.ID), fullName(task), task.NodeName, describe(task, now), images.of(task), ports, restarts, remarkIn(list, task))
	}
	runRows(t, list, now)
	for _, b := range list.Blocked {
		state := heldUpBy(list, &b) + " " + ageOf(b.Since, now)
		t.add("", b.Job+"/"+b.Service+" ×"+strconv.Itoa(b.Slots), "", cell{state, yellow}, images.byService[b.Job+"/"+b.Service], "", "", b.Reason)
	}
	return t
}

// imageNames knows the names of images as the specs give them: a task itself knows only the digest that it runs.
type imageNames struct {
	cl        *api.Client
	byDigest  map[job.Digest]string
	byService map[string]string
	asked     map[string]bool
}

func newImages(cl *api.Client) *imageNames {
	return &imageNames{cl: cl, byDigest: map[job.Digest]string{}, byService: map[string]string{}, asked: map[string]bool{}}
}

// maxImageQuestions bounds the requests for one list; further tasks show their digest.
const maxImageQuestions = 50

// learn asks for the specs that a list needs and that are not known yet.
func (im *imageNames) learn(ctx context.Context, list *api.TaskList) {
	for i := range list.Tasks {
		if t := &list.Tasks[i]; im.byDigest[t.Digest] == "" {
			im.ask(ctx, t.Job, string(t.Digest))
		}
	}
	for _, b := range list.Blocked {
		if im.byService[b.Job+"/"+b.Service] == "" {
			im.ask(ctx, b.Job, b.Service)
		}
	}
}

// ask learns all images of a job, once for each thing that it is asked for.
func (im *imageNames) ask(ctx context.Context, jobName, thing string) {
	if im.asked[jobName+"/"+thing] || len(im.asked) >= maxImageQuestions {
		return
	}
	im.asked[jobName+"/"+thing] = true
	d, err := im.cl.Job(ctx, jobName, true)
	if err != nil {
		return // a job that is gone: its tasks show digests
	}
	for _, v := range append(d.Versions, d.Job) {
		for _, svc := range v.Spec.Services {
			im.byDigest[svc.Digest()] = tagOf(svc.Image)
			im.byService[jobName+"/"+svc.Name] = tagOf(svc.Image)
		}
	}
}

func (im *imageNames) of(t *api.Task) string {
	if name := im.byDigest[t.Digest]; name != "" {
		return name
	}
	if t.Status != nil {
		return shortID(t.Status.Image)
	}
	return ""
}
