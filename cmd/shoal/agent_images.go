package main

import (
	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/runtime/image"
)

// imageConfig is what the agent's flags say about images.
type imageConfig struct {
	registries *image.Registries
}

// imageFlags are the agent's flags about images.
func imageFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "registry-mirror", EnvVars: []string{"SHOAL_REGISTRY_MIRROR"}, Usage: "`HOST=URL` to ask before the registry HOST; may be given more than once, asked in order; a URL alone is a mirror of docker.io"},
		&cli.StringSliceFlag{Name: "insecure-registry", EnvVars: []string{"SHOAL_INSECURE_REGISTRY"}, Usage: "`HOST[:PORT]` of a registry that may be spoken to over http or with an unknown certificate; may be given more than once"},
		&cli.StringFlag{Name: "registries", EnvVars: []string{"SHOAL_REGISTRIES"}, Usage: "JSON `FILE` with mirrors, insecure and ca for each registry; the flags come on top"},
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
	for _, host := range c.StringSlice("insecure-registry") {
		if err := out.registries.AddInsecure(host); err != nil {
			return out, job.Errorf(job.Invalid, "--insecure-registry: %w", err)
		}
	}
	return out, nil
}
