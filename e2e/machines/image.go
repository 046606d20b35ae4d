package machines

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"shoal/runtime/image"
)

// Busybox writes an image archive of the machine's static busybox with all of its applets.
func Busybox(name string) ([]byte, error) {
	tree, err := busyboxTree()
	if err != nil {
		return nil, err
	}
	tree = append(tree,
		image.File{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")},
		image.File{Path: "/etc/group", Data: []byte("root:x:0:\nnogroup:x:65534:\n")},
	)
	var b bytes.Buffer
	cfg := image.RunConfig{Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin"}}
	if err := image.WriteArchive(&b, name, cfg, tree); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// busyboxTree is busybox with links for its applets, and a /tmp.
func busyboxTree() (image.Tree, error) {
	const bin = "/bin/busybox"
	list, err := exec.Command(bin, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox is missing: install busybox-static: %w", err)
	}
	tree := image.Program(bin, bin)
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			tree = append(tree, image.File{Path: "/bin/" + applet, Link: "busybox"})
		}
	}
	return append(tree, image.File{Path: "/tmp", Mode: os.ModeDir | os.ModeSticky | 0o777}), nil
}

// LoadImage puts an image archive into the machine's store; the other nodes fetch it from there.
func (m *Machine) LoadImage(archive []byte) error {
	c := m.Client()
	defer c.Close()
	_, err := c.LoadImage(context.Background(), bytes.NewReader(archive))
	return err
}
