package chaos

import "slices"

// Faults are all that can be played. A new one is a function in a fault_*.go and a line here.
var Faults = slices.Concat(
	processFaults,
	networkFaults,
	powerFaults,
	diskFaults,
	containerFaults,
	clientFaults,
	joinFaults,
	damageFaults,
)
