package main

import "fmt"

var submitGroup = group{
	name: "submit",
	how: "from sending the submit to the answer that says that all tasks run, asked by long polling at a node that need not lead; the image is " +
		"on all machines; busybox sleep without a health check. All machines share this computer's cores.",
	run: func(b *bench) error {
		small := &series{name: "submit -> all of 3 running, 3 machines", unit: Millis}
		three := &series{name: "submit -> all of 30 running, 3 machines", unit: Millis}
		five := &series{name: "submit -> all of 30 running, 5 machines", unit: Millis, later: &Goal{Bound: 500}}
		err := b.withCluster(3, func(c *cluster) error {
			if err := c.submits(3, small); err != nil {
				return err
			}
			return c.submits(30, three)
		})
		if err == nil {
			err = b.withCluster(5, func(c *cluster) error { return c.submits(30, five) })
		}
		if err != nil {
			return err
		}
		return b.keep("submit", small, three, five)
	},
}

func (c *cluster) submits(replicas int, s *series) error {
	c.progress("%s", s.name)
	if err := c.loadImage(); err != nil {
		return err
	}
	m := c.net.Machines()[0]
	for i := range c.samples + 1 {
		name := fmt.Sprintf("submit%d", i)
		took, err := c.start(m, sleepers(name, replicas))
		if err != nil {
			return err
		}
		if i > 0 { // the first warms up
			s.took(took)
		}
		if err := c.remove(m, name); err != nil {
			return err
		}
	}
	return nil
}
