package e2e

import (
	"bytes"
	"os"
	"sync"
	"testing"

	"shoal/e2e/machines"
	"shoal/runtime/image"
)

// people is who the programs of the images run as.
var people = image.Tree{
	{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/srv:/bin/sh\nredis:x:100:100:redis:/data:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")},
	{Path: "/etc/group", Data: []byte("root:x:0:\nwww-data:x:33:\nredis:x:100:\nnogroup:x:65534:\n")},
}

var nginxArchive = sync.OnceValues(func() ([]byte, error) {
	conf, err := os.ReadFile("testdata/nginx.conf")
	if err != nil {
		return nil, err
	}
	extra := append(image.Tree{
		{Path: "/etc/nginx/nginx.conf", Data: conf},
		{Path: "/srv/index.html", Data: []byte("welcome to the shop\n")},
	}, people...)
	return machines.DebianImage("e2e/nginx:1", image.RunConfig{Cmd: []string{"nginx"}, StopSignal: "SIGQUIT"}, extra, "nginx", "nginx-common")
})

var redisArchive = sync.OnceValues(func() ([]byte, error) {
	extra := append(image.Tree{{Path: "/data", Mode: os.ModeDir | 0o755, UID: 100, GID: 100}}, people...)
	return machines.DebianImage("e2e/redis:1", image.RunConfig{Cmd: []string{"redis-server"}}, extra, "redis-server", "redis-tools")
})

// loadArchive puts an image into the store of one machine, by the CLI and standard input.
func loadArchive(t *testing.T, m *machines.Machine, archive func() ([]byte, error)) {
	t.Helper()
	b, err := archive()
	must(t, err)
	if r := attempt(m, bytes.NewReader(b), "image", "load"); r.Code != 0 {
		t.Fatalf("%s# shoal image load: %v", m.Name, r)
	}
}
