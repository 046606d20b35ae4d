//go:build stage

package main

import _ "embed"

// stageProgram is the small program that is started for each container; make build puts it there first.
//
//go:embed stage.gz
var stageProgram []byte
