//go:build !stage

package main

// stageProgram is absent from a binary that was built by go build alone: it starts itself for each container, which takes
// longer.
var stageProgram []byte
