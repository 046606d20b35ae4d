package main

import (
	"cmp"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/consensus/job/compose"
	"shoal/node/api"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Category: categoryRun,
		Usage:     "run a container in the foreground, or submit a job and wait until it is healthy",
		ArgsUsage: "-f FILE | IMAGE [COMMAND...]",
		Description: "IMAGE alone behaves as `docker run`: a container on some node whose output comes here, never started again, with its exit code\n" +
			"(125: shoal's own failure, 126 and 127: the command cannot be executed or is not there, 128 and the signal's number). Ctrl-C is\n" +
			"sent to it, a second one kills it; with -it ctrl-p ctrl-q leaves it running, and `shoal attach` comes back. --rm removes it at\n" +
			"its end.\n\n" +
			"With --detach, --replicas or --mode it is a service of that image, and with -f the job is what a Compose file says: a job of\n" +
			"the same name is changed to what is said now, and only what differs is replaced. Ctrl-C stops the waiting, not the job.\n\n" +
			"An update that fails is rolled back by itself; then the exit code is 8.\n\n" +
			"A batch is waited for until it is complete or has failed; then the exit code is its program's. It runs anew only when\n" +
			"its content changed, or with --rerun.\n\n" +
			"Examples:\n" +
			"  shoal run --rm -it alpine sh\n" +
			"  shoal run -f compose.yaml\n" +
			"  shoal run --name web --replicas 3 -p 8080:80 nginx:1.27\n" +
			"  shoal run --mode batch --name once alpine echo hello",
		Flags:  clientFlags(runFlags()...),
		Action: asking(runJob),
	}
}

// fileFlags say which Compose files make up a job, and how strictly they are read.
func fileFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "file", Aliases: []string{"f"}, Usage: "Compose `FILE`, or - for standard input; may be given more than once, a later one overrides"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of the job (default: from the file or its directory, or from the image)"},
		&cli.BoolFlag{Name: "lenient", Usage: "warn of Compose keys that shoal does not honour, and go on"},
		&cli.StringSliceFlag{Name: "profile", Usage: "enable a `PROFILE` of the Compose file; may be given more than once"},
		&cli.StringFlag{Name: "project-directory", Usage: "`DIR` that relative paths of the Compose file are relative to (default: the first file's)"},
	}
}

// envFileFlag is of verbs that read Compose files; more says what else it is for.
func envFileFlag(more string) cli.Flag {
	return &cli.StringSliceFlag{Name: "env-file", Usage: "`FILE` with lines KEY=VALUE in place of .env, for what the Compose file interpolates" + more + "; may be given more than once, a later one overrides"}
}

const defaultTimeout = 5 * time.Minute

// waitFlags say whether and for how long to wait.
func waitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait"},
		&cli.DurationFlag{Name: "timeout", Value: defaultTimeout, Usage: "wait at most this `TIME`"},
	}
}

func runFlags() []cli.Flag {
	flags := append(append(fileFlags(), envFileFlag(", and with IMAGE for its environment")), waitFlags()...)
	flags = append(flags, jsonFlag(), &cli.BoolFlag{Name: "dry-run", Usage: "show what would be done and do nothing, as `shoal plan` does"})
	flags = append(flags, foregroundFlags()...)
	return append(append(flags, serviceFlags()...), keyFlags()...)
}

// serviceFlags describe the one service of a job without a file, in docker's words.
func serviceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "replicas", Value: 1, Usage: "`NUMBER` of tasks"},
		&cli.StringFlag{Name: "mode", Value: "service", Usage: "`MODE`: service, global (a task on every node), batch (--replicas completions) or global-batch (one on every node)"},
		&cli.IntFlag{Name: "parallelism", Usage: "`NUMBER` of tasks of a batch at a time (default: all)"},
		&cli.IntFlag{Name: "retries", Usage: "`NUMBER` of retries of each completion of a batch (default: as --restart says, or none)"},
		&cli.DurationFlag{Name: "deadline", Usage: "`TIME` that a run of a batch may take"},
		&cli.StringFlag{Name: "schedule", Usage: "make it a batch that runs by a cron `EXPRESSION`, such as \"30 2 * * *\" or @daily"},
		&cli.StringFlag{Name: "time-zone", Usage: "`ZONE` of the schedule, such as Europe/Berlin (default UTC)"},
		&cli.BoolFlag{Name: "rerun", Usage: "run a batch anew that has ended and has not changed"},
		&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"}, Usage: "publish a port, `[IP:][PORT:]PORT[/udp]`"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`KEY=VALUE` of the environment, or KEY to take it from here"},
		&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Usage: "mount `[SOURCE:]TARGET[:ro]`, where SOURCE is a volume or a path on the node"},
		&cli.StringSliceFlag{Name: "tmpfs", Usage: "mount a tmpfs at `PATH[:size=64m]`"},
		&cli.StringSliceFlag{Name: "label", Aliases: []string{"l"}, Usage: "`KEY=VALUE` on the containers"},
		&cli.StringFlag{Name: "node", Usage: "place it on this `NODE` only, by name"},
		&cli.StringSliceFlag{Name: "constraint", Usage: "place on nodes with `node.labels.KEY==VALUE` only"},
		&cli.StringFlag{Name: "restart", Usage: "`POLICY`: always, on-failure[:TRIES], unless-stopped or no"},
		&cli.StringFlag{Name: "cpus", Usage: "limit to a `NUMBER` of CPUs, such as 0.5"},
		&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Usage: "limit to `BYTES` of memory, such as 512m"},
		&cli.StringFlag{Name: "reserve-cpus", Usage: "keep a `NUMBER` of CPUs free for each task"},
		&cli.StringFlag{Name: "reserve-memory", Usage: "keep `BYTES` of memory free for each task"},
		&cli.Int64Flag{Name: "pids-limit", Usage: "limit to a `NUMBER` of processes"},
		&cli.StringFlag{Name: "entrypoint", Usage: "`PROGRAM` in place of the image's entrypoint"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`USER[:GROUP]` to run as"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "`DIR` to run in"},
		&cli.StringFlag{Name: "hostname", Usage: "`NAME` of the container's host"},
		&cli.StringFlag{Name: "stop-signal", Usage: "`SIGNAL` that asks it to end"},
		&cli.DurationFlag{Name: "stop-timeout", Usage: "kill it when it has not ended after this `TIME` (default 10s)"},
		&cli.StringSliceFlag{Name: "cap-add", Usage: "`CAPABILITY` to add"},
		&cli.StringSliceFlag{Name: "cap-drop", Usage: "`CAPABILITY` to drop"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give it a terminal"},
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "keep its standard input open"},
		&cli.BoolFlag{Name: "init", Usage: "run an init that reaps as its first process"},
		&cli.BoolFlag{Name: "read-only", Usage: "make its root read-only"},
		&cli.StringFlag{Name: "health-cmd", Usage: "`COMMAND` whose success means healthy"},
		&cli.DurationFlag{Name: "health-interval", Usage: "`TIME` between checks"},
		&cli.DurationFlag{Name: "health-timeout", Usage: "`TIME` that one check may take"},
		&cli.DurationFlag{Name: "health-start-period", Usage: "`TIME` in which failing checks do not count"},
		&cli.IntFlag{Name: "health-retries", Usage: "`NUMBER` of failing checks in a row that mean unhealthy"},
		&cli.BoolFlag{Name: "no-healthcheck", Usage: "ignore the image's health check"},
	}
}

func runJob(c *cli.Context, s *screen, cl *api.Client) error {
	if inForeground(c) {
		return runInForeground(c, s, cl)
	}
	if err := onlyInForeground(c); err != nil {
		return err
	}
	spec, err := specOf(c, s)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return showPlan(c, s, cl, spec)
	}
	return submit(c, s, cl, spec, 0)
}

// specOf makes the spec that the command line asks for, from files or from flags.
func specOf(c *cli.Context, s *screen) (*job.Spec, error) {
	if c.IsSet("file") {
		return specOfFiles(c, s)
	}
	if !c.Args().Present() {
		return nil, exitf(exitUsage, "run takes a Compose file (-f compose.yaml) or an image; `shoal run --help` shows examples")
	}
	if err := onlyWithFiles(c, "lenient", "profile", "project-directory"); err != nil {
		return nil, err
	}
	constraints := c.StringSlice("constraint")
	if node := c.String("node"); node != "" {
		constraints = append(constraints, "node.hostname=="+node)
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	files, err := envOfFiles(c)
	if err != nil {
		return nil, err
	}
	return compose.FromFlags(compose.Flags{
		Name: c.String("name"), Image: c.Args().First(), Command: c.Args().Tail(), Replicas: c.Int("replicas"), Mode: c.String("mode"), Dir: dir,
		Env: append(files, c.StringSlice("env")...), Environ: os.Environ(), Labels: c.StringSlice("label"), Ports: c.StringSlice("publish"),
		Mounts: c.StringSlice("volume"), Tmpfs: c.StringSlice("tmpfs"), Constraints: constraints,
		Entrypoint: c.String("entrypoint"), Restart: c.String("restart"), CPUs: c.String("cpus"), Memory: c.String("memory"),
		ReserveCPUs: c.String("reserve-cpus"), ReserveMemory: cmp.Or(c.String("reserve-memory"), c.String("memory-reservation")), PIDs: c.Int64("pids-limit"),
		User: c.String("user"), WorkingDir: c.String("workdir"), Hostname: c.String("hostname"),
		StopSignal: c.String("stop-signal"), StopGrace: c.Duration("stop-timeout"), CapAdd: c.StringSlice("cap-add"), CapDrop: c.StringSlice("cap-drop"),
		TTY: c.Bool("tty"), Stdin: c.Bool("interactive"), Init: c.Bool("init"), ReadOnly: c.Bool("read-only"),
		HealthCmd: c.String("health-cmd"), HealthInterval: c.Duration("health-interval"), HealthTimeout: c.Duration("health-timeout"),
		Keys:          keysOf(c),
		HealthRetries: c.Int("health-retries"), HealthStartPeriod: c.Duration("health-start-period"), NoHealthcheck: c.Bool("no-healthcheck"),
		Batch: batchOfFlags(c), Schedule: c.String("schedule"), TimeZone: c.String("time-zone"),
	})
}

// onlyWithFiles refuses flags that say how a Compose file is read where there is none.
func onlyWithFiles(c *cli.Context, names ...string) error {
	for _, name := range names {
		if c.IsSet(name) {
			return exitf(exitUsage, "--%s goes with a Compose file: with -f", name)
		}
	}
	return nil
}

func specOfFiles(c *cli.Context, s *screen) (*job.Spec, error) {
	if c.Args().Present() {
		return nil, exitf(exitUsage, "-f says what to run, so %q is one too much; leave one of them out", c.Args().First())
	}
	for _, f := range append(serviceFlags(), keyFlags()...) {
		if c.IsSet(f.Names()[0]) && f.Names()[0] != "rerun" {
			return nil, exitf(exitUsage, "--%s goes with an image; with -f the Compose file says it", f.Names()[0])
		}
	}
	return loadFiles(c, s, c.String("name"))
}

// loadFiles reads the Compose files of a command as a job of this name; "": the file's own.
func loadFiles(c *cli.Context, s *screen, name string) (*job.Spec, error) {
	spec, warnings, err := compose.Load(c.Context, compose.Options{
		Files: c.StringSlice("file"), Stdin: c.App.Reader, ProjectName: name, WorkingDir: c.String("project-directory"),
		Env: os.Environ(), EnvFiles: c.StringSlice("env-file"), Lenient: c.Bool("lenient"), Profiles: c.StringSlice("profile"),
	})
	for _, w := range warnings {
		s.note("warning: %v", w)
	}
	return spec, err
}

// submit makes the job be so, says what that changes, and waits. rollbackTo is the version that the spec was; 0: none.
func submit(c *cli.Context, s *screen, cl *api.Client, spec *job.Spec, rollbackTo uint64) error {
	ctx := c.Context
	cmp, err := compareWith(ctx, s, cl, spec)
	if err != nil {
		return err
	}
	if !c.Bool("json") && cmp.known() && !cmp.changes.Empty() {
		s.printf("job %s changes:\n", spec.Name)
		printChanges(s, cmp.changes)
		cmp.printHow(s)
	}
	key := api.NewKey()
	var result api.SubmitResult
	err = persist(ctx, s, cl, func() (err error) {
		result, err = cl.Submit(ctx, key, api.SubmitRequest{Spec: *spec, RollbackTo: rollbackTo})
		return err
	})
	if err != nil {
		return err
	}
	if !c.Bool("json") {
		saySubmitted(s, &result, cmp.known())
	}
	if c.Bool("rerun") && result.Unchanged {
		if err := rerun(c, s, cl, &result); err != nil {
			return err
		}
	}
	return settle(c, s, cl, &result)
}

func saySubmitted(s *screen, r *api.SubmitResult, known bool) {
	switch {
	case r.Unchanged:
		s.printf("job %s: nothing to change, version %d\n", r.Job.Name, r.Job.Version)
	case known:
		s.printf("job %s: submitted as version %d\n", r.Job.Name, r.Job.Version)
	default:
		s.printf("job %s: submitted\n", r.Job.Name)
	}
}

// patienceFor is how long to wait for a job: what a batch takes nobody can tell, so there only a person's word counts.
func patienceFor(c *cli.Context, spec *job.Spec) time.Duration {
	if !c.IsSet("timeout") && hasBatch(spec) {
		return job.MaxBatchTime
	}
	return c.Duration("timeout")
}

// settle waits until a job is as it was just submitted, unless told otherwise.
func settle(c *cli.Context, s *screen, cl *api.Client, r *api.SubmitResult) error {
	if !c.Bool("detach") {
		w := &waiter{s: s, cl: cl, submitted: r, timeout: patienceFor(c, &r.Job.Spec), quiet: c.Bool("json")}
		if err := w.wait(c.Context); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return s.json(r)
	}
	return nil
}
