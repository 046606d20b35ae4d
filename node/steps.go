package node

import "shoal/runtime/step"

// The moments between two changes of this node's own files, but for its log (consensus.Steps) and its identity (pki.Steps).
// TestKilledAtEachStep kills a process at each of them.
const (
	stepFileWritten step.Name = "node file written" // under a temporary name
	stepFileSynced  step.Name = "node file synced"
	stepFileRenamed step.Name = "node file renamed"
	stepFileDurable step.Name = "node file durable"

	stepFoundIdentity step.Name = "found identity saved"
	stepFoundKey      step.Name = "found key saved"
	stepFounded       step.Name = "founded"
	stepRecorded      step.Name = "found recorded" // what is left is to remove the key
	stepJoiningKey    step.Name = "join key saved"
	stepJoinIdentity  step.Name = "join identity saved"
	stepJoined        step.Name = "joined" // what is left is to remove the key
	stepRenew         step.Name = "certificate renewed"
	stepRenewed       step.Name = "certificate saved"
)

// Steps are all of them.
var Steps = []step.Name{
	stepFileWritten, stepFileSynced, stepFileRenamed, stepFileDurable,
	stepFoundIdentity, stepFoundKey, stepFounded, stepRecorded, stepJoiningKey, stepJoinIdentity, stepJoined, stepRenew, stepRenewed,
}
