package compose

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

func TestFromFlagsSaysTheSameAsTheFile(t *testing.T) {
	got, err := FromFlags(Flags{
		Name: "web", Image: "nginx:1.27", Command: []string{"nginx", "-g", "daemon off;"}, Replicas: 2, Dir: "/srv/shop",
		Env: []string{"B=2", "A"}, Environ: []string{"A=1", "C=3"}, Labels: []string{"team=shop", "bare"},
		Ports: []string{"8080:80", "53:53/udp"}, Mounts: []string{"data:/data:ro", "./html:/html"}, Tmpfs: []string{"/tmp:size=1m"},
		Constraints: []string{"node.labels.zone==a"}, Entrypoint: "/entry", Restart: "on-failure:3", CPUs: "0.5", Memory: "64m",
		ReserveMemory: "32m", PIDs: 10, User: "1", WorkingDir: "/w", Hostname: "h", StopSignal: "INT", StopGrace: time.Minute,
		CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"}, TTY: true, Stdin: true, Init: true, ReadOnly: true,
		HealthCmd: "true", HealthInterval: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := load(t, `services:
  web:
    image: nginx:1.27
    command: [nginx, -g, daemon off;]
    entrypoint: [/entry]
    scale: 2
    environment: {A: "1", B: "2"}
    labels: {team: shop, bare: ""}
    ports: ["8080:80", "53:53/udp"]
    volumes: ["data:/data:ro", "/srv/shop/html:/html"]
    tmpfs: ["/tmp:size=1m"]
    restart: on-failure:3
    cpus: 0.5
    mem_limit: 64m
    mem_reservation: 32m
    pids_limit: 10
    user: "1"
    working_dir: /w
    hostname: h
    stop_signal: SIGINT
    stop_grace_period: 1m
    cap_add: [NET_ADMIN]
    cap_drop: [ALL]
    tty: true
    stdin_open: true
    init: true
    read_only: true
    healthcheck: {test: "true", interval: 5s}
    deploy: {placement: {constraints: [node.labels.zone==a]}}
volumes: {data: {name: data}}
`, func(o *Options) { o.ProjectName = "web" })
	if err != nil {
		t.Fatal(err)
	}
	want.Source = ""
	if !job.Diff(want, got).Empty() || !reflect.DeepEqual(want.Volumes, got.Volumes) || got.Name != want.Name {
		t.Errorf("they differ:\n%s", job.Diff(want, got))
	}
}

func TestFlagsHaveModesAndMakeNames(t *testing.T) {
	for image, want := range map[string]string{"nginx": "nginx", "registry.example:5000/team/my.app:1": "my-app",
		"app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef": "app"} {
		s, err := FromFlags(Flags{Image: image, Replicas: 1})
		if err != nil || s.Name != want || s.Services[0].Name != want {
			t.Errorf("%s: %+v, %v; want the name %q", image, s, err, want)
		}
	}
	s, err := FromFlags(Flags{Image: "a", Mode: "batch", Replicas: 4})
	if err != nil || s.Services[0].Restart.Policy != job.RestartNever || s.Services[0].Replicas != 4 {
		t.Errorf("batch: %+v, %v", s, err)
	}
	s, err = FromFlags(Flags{Image: "a", Mode: "global", Replicas: 4, NoHealthcheck: true})
	if err != nil || s.Services[0].Mode != job.Global || s.Services[0].Replicas != 0 || s.Services[0].Health.Test[0] != "NONE" {
		t.Errorf("global: %+v, %v", s, err)
	}
}

func TestFlagsThatAreWrongAreNamedAllAtOnce(t *testing.T) {
	_, err := FromFlags(Flags{Image: "A b", Mode: "cron", Restart: "x", Env: []string{"NOPE"}, Ports: []string{"x"}, Mounts: []string{"x"},
		Tmpfs: []string{"/x:y"}, Constraints: []string{"x"}, CPUs: "x", Memory: "x", HealthRetries: 2})
	if !errors.Is(err, job.Invalid) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"image: ", "--mode: ", "--restart: ", "-e NOPE: ", "-p: ", "-v: ", "--tmpfs: ", "--constraint: ", "--cpus: ",
		"--memory: ", "--health-cmd: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	if _, err := FromFlags(Flags{Image: "a", Mode: "batch", Restart: "always"}); err == nil {
		t.Error("a batch that restarts for ever was accepted")
	}
	if _, err := FromFlags(Flags{Image: "a", Memory: "1m"}); err == nil || !strings.Contains(err.Error(), "6 MiB") {
		t.Errorf("a container too small to start: %v", err)
	}
}
