package chaos

import (
	"context"
	"errors"
	"time"

	"shoal/e2e/machines"
	"shoal/node/api"
)

// diskBytes is a machine's disk: a sparse file with ext4.
const diskBytes = 1 << 30

// patience is for what has no limit of its own: many times what it takes.
const patience = 90 * time.Second

// form makes machines with a disk each, one cluster of them, and gives all of them the image.
func form(n *machines.Net, count int) error {
	for range count {
		m, err := n.Add(machines.MachineOptions{DiskExt4: diskBytes})
		if err != nil {
			return err
		}
		if err := m.PowerOn(); err != nil {
			return err
		}
	}
	all := n.Machines()
	if err := errors.Join(all[0].Start(), all[0].AwaitReady(patience)); err != nil {
		return err
	}
	c := all[0].Client()
	defer c.Close()
	token, err := c.CreateToken(context.Background(), api.TokenRequest{})
	if err != nil {
		return err
	}
	for _, m := range all[1:] {
		if err := m.Start("--join", all[0].Addr.String()+":6174", "--token", token.Secret); err != nil {
			return err
		}
	}
	archive, err := machines.Busybox(Image)
	if err != nil {
		return err
	}
	for _, m := range all {
		if err := m.AwaitReady(patience); err != nil {
			return err
		}
		if err := m.LoadImage(archive); err != nil {
			return err
		}
	}
	return n.AwaitVoters(patience)
}
