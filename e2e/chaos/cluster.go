package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"shoal/e2e/machines"
	"shoal/node/api"
)

// diskBytes is a machine's disk: a sparse file with ext4.
const diskBytes = 1 << 30

// patience is for what has no limit of its own: many times what it takes.
const patience = 90 * time.Second

// form makes machines with a disk each, one cluster of them, and gives all of them the image.
func form(n *machines.Net, count int, disks string) error {
	for i := range count {
		img := filepath.Join(disks, fmt.Sprintf("disk%d.ext4", i+1))
		if err := makeDisk(img); err != nil {
			return err
		}
		m, err := n.Add(machines.MachineOptions{DiskImage: img})
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

func makeDisk(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4 %s: %w: %s", path, err, out)
	}
	return nil
}
