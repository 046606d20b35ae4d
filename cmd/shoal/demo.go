package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime/image"
)

const (
	defaultDemoTag = "shoal/demo:latest"
	demoAddr       = ":8080"
	demoHealth     = "http://127.0.0.1:8080/healthz"
)

// demoImageCommand makes an image out of this very binary, so that the demo has nothing to pull.
func demoImageCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "make an image of a small web server out of this program", Hidden: true,
		Description: "It writes the archive to standard output, or straight to the agent with --load.\n\nExample: shoal image demo --load",
		Flags: clientFlags(
			&cli.StringFlag{Name: "tag", Value: defaultDemoTag, Usage: "`NAME` of the image"},
			&cli.BoolFlag{Name: "load", Usage: "load it into the asked agent"},
			jsonFlag(),
		),
		Action: asking(demoImage),
	}
}

func demoImage(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if !c.Bool("load") {
		if s.terminal {
			return exitf(exitUsage, "image demo writes an archive: redirect it to a file, or give --load")
		}
		return writeDemoImage(s.out, c.String("tag"), self)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(writeDemoImage(pw, c.String("tag"), self)) }()
	defer pr.Close() // frees the writer if the agent refuses
	return load(c, s, cl, pr)
}

func writeDemoImage(w io.Writer, tag, self string) error {
	const program = "/shoal"
	cfg := image.RunConfig{
		Entrypoint: []string{program}, Cmd: []string{"demo-web"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Healthcheck: &image.Healthcheck{
			Test: []string{"CMD", program, "demo-web", "--check"}, Interval: 10 * time.Second, Timeout: 5 * time.Second,
			StartPeriod: 10 * time.Second, StartInterval: 200 * time.Millisecond, Retries: 3,
		},
	}
	return image.WriteArchive(w, tag, cfg, image.Program(program, self))
}

func demoWebCommand() *cli.Command {
	return &cli.Command{
		Name: "demo-web", Hidden: true,
		Usage:       "serve a page that says which task answers; what `shoal image demo` packs",
		Description: "Example: shoal demo-web",
		Flags:       []cli.Flag{&cli.BoolFlag{Name: "check", Usage: "ask a running one whether it is well, as a health check does"}},
		Action: func(c *cli.Context) error {
			if c.Bool("check") {
				return checkDemo(c.Context, demoHealth)
			}
			return serveDemo(c.Context)
		},
	}
}

func serveDemo(ctx context.Context) error {
	srv := &http.Server{Addr: demoAddr, Handler: demoHandler(), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	fmt.Println("serving on", demoAddr)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(grace))
}

func demoHandler() http.Handler {
	var asked atomic.Int64
	host, _ := os.Hostname() // shown only
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		fmt.Fprintf(w, "hello from %s/%s.%s on node %s (task %s, host %s), request %d\n", os.Getenv("SHOAL_JOB"), os.Getenv("SHOAL_SERVICE"),
			os.Getenv("SHOAL_SLOT"), os.Getenv("SHOAL_NODE"), os.Getenv("SHOAL_TASK"), host, n)
		fmt.Printf("%s %s from %s, request %d\n", r.Method, r.URL.Path, r.RemoteAddr, n)
	})
	return mux
}

func checkDemo(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return exitf(exitFailed, "check: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return job.Errorf(job.Internal, "check: it answered %s", resp.Status)
	}
	return nil
}
