package main

import (
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func scaleCommand() *cli.Command {
	return &cli.Command{
		Name: "scale", Category: categoryRun,
		Usage: "set the number of tasks of services, and wait until they are healthy", ArgsUsage: "JOB/SERVICE=NUMBER...",
		Description: "JOB=NUMBER is enough for a job of one service. Running tasks stay as they are.\n\nExample: shoal scale web/front=5 web/worker=2",
		Flags:       clientFlags(append(waitFlags(), jsonFlag())...),
		Action:      asking(scale),
	}
}

func scale(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	orders, err := parseScales(c.Args().Slice())
	if err != nil {
		return err
	}
	var results []*api.SubmitResult
	for i := range orders {
		o := &orders[i]
		if err := o.onlyService(c, cl); err != nil {
			return err
		}
		key := api.NewKey()
		var r api.SubmitResult
		err := persist(c.Context, s, cl, func() (err error) {
			r, err = cl.Scale(c.Context, key, o.job, o.replicas)
			return err
		})
		if err != nil {
			return err
		}
		if r.Unchanged && !c.Bool("json") {
			s.printf("job %s: nothing to change\n", o.job)
		}
		results = append(results, &r)
	}
	for _, r := range results {
		if err := settle(c, s, cl, r); err != nil {
			return err
		}
	}
	return nil
}

// scaleOrder is what one job shall be; "" stands for its only service.
type scaleOrder struct {
	job      string
	replicas map[string]int
}

// parseScales reads JOB/SERVICE=NUMBER words, one order a job in the order of the words.
func parseScales(words []string) ([]scaleOrder, error) {
	var orders []scaleOrder
	at := map[string]int{}
	for _, w := range words {
		who, number, ok := strings.Cut(w, "=")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || n < 0 || n > job.MaxReplicas {
			return nil, exitf(exitUsage, "scale %s: it takes JOB/SERVICE=NUMBER, such as web/front=3", w)
		}
		name, service, _ := strings.Cut(who, "/")
		i, known := at[name]
		if !known {
			i = len(orders)
			at[name] = i
			orders = append(orders, scaleOrder{name, map[string]int{}})
		}
		if _, twice := orders[i].replicas[service]; twice {
			return nil, exitf(exitUsage, "scale %s: %s is named twice", w, who)
		}
		orders[i].replicas[service] = n
	}
	return orders, nil
}

// onlyService finds the service of an order that names a job alone.
func (o *scaleOrder) onlyService(c *cli.Context, cl *api.Client) error {
	n, alone := o.replicas[""]
	if !alone {
		return nil
	}
	d, err := cl.Job(c.Context, o.job, false)
	if err != nil {
		return err
	}
	services := d.Job.Spec.Services
	if len(services) != 1 || len(o.replicas) != 1 {
		var names []string
		for i := range services {
			names = append(names, o.job+"/"+services[i].Name)
		}
		return exitf(exitUsage, "scale %s=%d: the job has %d services, say which: %s", o.job, n, len(services), strings.Join(names, ", "))
	}
	o.replicas = map[string]int{services[0].Name: n}
	return nil
}
