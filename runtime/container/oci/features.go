package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/urfave/cli/v2"
)

func featuresCommand() *cli.Command {
	return &cli.Command{Name: "features", Usage: "print what this runtime can do, as the OCI's features.md says", Action: func(c *cli.Context) error {
		if err := want(c, 0, 0); err != nil {
			return err
		}
		enc := json.NewEncoder(c.App.Writer)
		enc.SetIndent("", "    ")
		return enc.Encode(capabilitiesOf(c.App.Version))
	}}
}

func capabilitiesOf(version string) features.Features {
	yes, no := true, false
	f := features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
		Annotations:  map[string]string{"shoal.version": version},
		Hooks:        configs.KnownHookNames(),
		MountOptions: specconv.KnownMountOptions(),
		Linux: &features.Linux{
			Namespaces:      specconv.KnownNamespaces(),
			Capabilities:    capabilities.KnownCapabilities(),
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MemoryPolicy:    &features.MemoryPolicy{Modes: specconv.KnownMemoryPolicyModes(), Flags: specconv.KnownMemoryPolicyFlags()},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", "org.systemd.property.", "org.criu.config"},
	}
	if seccomp.Enabled {
		major, minor, micro := seccomp.Version()
		f.Annotations["shoal.libseccomp.version"] = fmt.Sprintf("%d.%d.%d", major, minor, micro)
		f.Linux.Seccomp = &features.Seccomp{
			Enabled: &yes, Actions: seccomp.KnownActions(), Operators: seccomp.KnownOperators(), Archs: seccomp.KnownArchs(),
			KnownFlags: seccomp.KnownFlags(), SupportedFlags: seccomp.SupportedFlags(),
		}
	}
	return f
}

func specCommand() *cli.Command {
	return &cli.Command{
		Name: "spec", Usage: "write a config.json to begin with",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "`DIR` to write it to (default: the working directory)"},
			&cli.BoolFlag{Name: "rootless", Usage: "for a user without privileges"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 0, 0); err != nil {
				return err
			}
			spec := specconv.Example()
			if c.Bool("rootless") {
				specconv.ToRootless(spec)
			}
			if bundle := c.String("bundle"); bundle != "" {
				if err := os.Chdir(bundle); err != nil {
					return err
				}
			}
			raw, err := json.MarshalIndent(spec, "", "\t")
			if err != nil {
				return err
			}
			f, err := os.OpenFile(specFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists: remove it first", specFile)
			} else if err != nil {
				return err
			}
			_, err = f.Write(raw)
			return errors.Join(err, f.Close())
		},
	}
}
