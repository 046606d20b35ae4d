package chaos

import (
	"time"

	"shoal/e2e/machines"
)

// diskBytes is a machine's disk: a sparse file with ext4.
const diskBytes = 1 << 30

// patience is for what has no limit of its own: many times what it takes.
const patience = 90 * time.Second

// form makes one cluster of machines with a disk each, and gives all of them the image.
func form(n *machines.Net, count int) error {
	if err := n.Form(count, machines.MachineOptions{DiskExt4: diskBytes}); err != nil {
		return err
	}
	archive, err := machines.Busybox(Image)
	if err != nil {
		return err
	}
	for _, m := range n.Machines() {
		if err := m.LoadImage(archive); err != nil {
			return err
		}
	}
	return nil
}
