package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node"
	"shoal/node/api"
	"shoal/runtime"
	"shoal/runtime/image"
)

// imageConfig is what the agent's flags say about images.
type imageConfig struct {
	registries *image.Registries
	care       node.ImageCare
}

// imageFlags are the agent's flags about images.
func imageFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "registry-mirror", EnvVars: []string{"SHOAL_REGISTRY_MIRROR"}, Usage: "`HOST=URL` to ask before the registry HOST; may be given more than once, asked in order; a URL alone is a mirror of docker.io"},
		&cli.StringSliceFlag{Name: "insecure-registry", EnvVars: []string{"SHOAL_INSECURE_REGISTRY"}, Usage: "`HOST[:PORT]` of a registry that may be spoken to over http or with an unknown certificate; may be given more than once"},
		&cli.StringFlag{Name: "registries", EnvVars: []string{"SHOAL_REGISTRIES"}, Usage: "JSON `FILE` with mirrors, insecure and ca for each registry; the flags come on top"},
		&cli.DurationFlag{Name: "image-unused", Value: 14 * 24 * time.Hour, EnvVars: []string{"SHOAL_IMAGE_UNUSED"}, Usage: "delete an image that came from a registry when no container used it for this `TIME`; 0: never"},
		&cli.IntFlag{Name: "image-disk", Value: 85, EnvVars: []string{"SHOAL_IMAGE_DISK"}, Usage: "delete unused images, the longest unused first, while the disk is fuller than this `PERCENT`; 0: never"},
		&cli.StringFlag{Name: "image-max", EnvVars: []string{"SHOAL_IMAGE_MAX"}, Usage: "delete unused images likewise while all of them take more than this `SIZE`, such as 20g"},
		&cli.IntFlag{Name: "image-copies", Value: 3, EnvVars: []string{"SHOAL_IMAGE_COPIES"}, Usage: "keep images that were loaded or pushed on this `NUMBER` of nodes"},
	}
}

func imageSettings(c *cli.Context) (imageConfig, error) {
	out := imageConfig{registries: &image.Registries{}}
	var err error
	if path := c.String("registries"); path != "" {
		if out.registries, err = image.ReadRegistries(path); err != nil {
			return out, job.Errorf(job.Invalid, "--registries: %w", err)
		}
	}
	for _, m := range c.StringSlice("registry-mirror") {
		if err := out.registries.AddMirror(m); err != nil {
			return out, job.Errorf(job.Invalid, "--registry-mirror: %w", err)
		}
	}
	out.care = node.ImageCare{Unused: c.Duration("image-unused"), DiskPercent: c.Int("image-disk"), Copies: c.Int("image-copies")}
	if v := c.String("image-max"); v != "" {
		if out.care.MaxBytes, err = units.RAMInBytes(v); err != nil || out.care.MaxBytes <= 0 {
			return out, job.Errorf(job.Invalid, "--image-max %s: it takes a size such as 20g", v)
		}
	}
	if out.care.Unused < 0 || out.care.DiskPercent < 0 || out.care.DiskPercent > 100 || out.care.Copies < 0 {
		return out, job.Errorf(job.Invalid, "--image-unused, --image-disk and --image-copies: none can be negative, and a disk has 100 percent")
	}
	for _, host := range c.StringSlice("insecure-registry") {
		if err := out.registries.AddInsecure(host); err != nil {
			return out, job.Errorf(job.Invalid, "--insecure-registry: %w", err)
		}
	}
	return out, nil
}

// diskParts measures what containers and volumes take.
func diskParts(dir string, rt runtime.Runtime) func(context.Context) ([]api.DiskPart, error) {
	return func(ctx context.Context) ([]api.DiskPart, error) {
		list, err := rt.List(ctx)
		if err != nil {
			return nil, err
		}
		containers := api.DiskPart{Kind: "containers", Total: len(list), Size: sizeBelow(filepath.Join(dir, "containers"))}
		for _, c := range list {
			if c.State == runtime.Running {
				containers.Active++
			}
		}
		volumes := api.DiskPart{Kind: "volumes", Size: sizeBelow(filepath.Join(dir, "volumes"))}
		if entries, err := os.ReadDir(filepath.Join(dir, "volumes")); err == nil {
			for _, e := range entries {
				if e.IsDir() {
					volumes.Total++
				}
			}
		}
		volumes.Active = volumes.Total // data is never superfluous by itself
		return []api.DiskPart{containers, volumes}, nil
	}
}

// sizeBelow adds up regular files; what vanishes meanwhile does not count, and neither does what is mounted there.
func sizeBelow(dir string) int64 {
	var size int64
	var device uint64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return nil
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		switch {
		case !ok:
		case device == 0:
			device = st.Dev
		case d.IsDir() && st.Dev != device:
			return filepath.SkipDir
		}
		if fi.Mode().IsRegular() {
			size += fi.Size()
		}
		return nil
	})
	return size
}
