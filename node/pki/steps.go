package pki

import "shoal/runtime/step"

// The moments of writing this node's identity; node's crash test kills a process at each.
const (
	StepWritten step.Name = "identity written"
	StepSynced  step.Name = "identity synced"
	StepRenamed step.Name = "identity renamed"
	StepDurable step.Name = "identity durable"
)

// Steps are all of them.
var Steps = []step.Name{StepWritten, StepSynced, StepRenamed, StepDurable}
