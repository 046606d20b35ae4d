package main

import (
	"path/filepath"

	"github.com/urfave/cli/v2"
)

// asOCIRuntime gives the arguments of `shoal oci ARGUMENTS`, or of this binary under the name shoal-oci, as engines want
// it that take a program and no arguments of their own.
func asOCIRuntime(args []string) ([]string, bool) {
	if _, asked := completing(args); asked {
		return nil, false
	}
	switch {
	case len(args) > 0 && filepath.Base(args[0]) == "shoal-oci":
		return args[1:], true
	case len(args) > 1 && args[1] == "oci":
		return args[2:], true
	}
	return nil, false
}

// ociCommand is for help alone: main takes `shoal oci` before any flag is read, because its flags are runc's.
func ociCommand() *cli.Command {
	return &cli.Command{Name: "oci", Hidden: true, Usage: "an OCI runtime with runc's command line; see shoal oci --help"}
}
