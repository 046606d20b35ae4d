package consensus

import "shoal/runtime/step"

// The moments between two changes of the raft directory. TestKilledAtEachStep kills a process at each of them.
const (
	StepDirMade     step.Name = "raft directory made"
	StepFileWritten step.Name = "raft file written" // node-id, log-exists, log-id: under a temporary name
	StepFileSynced  step.Name = "raft file synced"
	StepFileRenamed step.Name = "raft file renamed"
	StepFileDurable step.Name = "raft file durable"

	StepLogMade     step.Name = "raft log made" // under a temporary name
	StepLogRenamed  step.Name = "raft log renamed"
	StepLogDurable  step.Name = "raft log durable"
	StepLogAudited  step.Name = "raft log audited"
	StepLogOpened   step.Name = "raft log opened"
	StepLogSealed   step.Name = "raft log sealed" // one from an older shoal got its record
	StepLogOwned    step.Name = "raft log owned"
	StepLogCopied   step.Name = "raft log copied" // to be rid of free pages
	StepLogReplaced step.Name = "raft log replaced"

	StepAppend   step.Name = "raft append"
	StepWritten  step.Name = "raft transaction written" // in memory: bolt is about to commit
	StepSynced   step.Name = "raft transaction synced"
	StepAppended step.Name = "raft appended"
	StepCut      step.Name = "raft cut"
	StepWasCut   step.Name = "raft was cut"
	StepVote     step.Name = "raft vote"
	StepVoted    step.Name = "raft voted"
	StepApply    step.Name = "raft apply"
	StepApplied  step.Name = "raft applied"

	StepSnapMade     step.Name = "raft snapshot made"
	StepSnapWritten  step.Name = "raft snapshot written"
	StepSnapSynced   step.Name = "raft snapshot synced"
	StepSnapMeta     step.Name = "raft snapshot described"
	StepSnapRenamed  step.Name = "raft snapshot renamed"
	StepSnapDurable  step.Name = "raft snapshot durable"
	StepSnapAside    step.Name = "raft old snapshot aside"
	StepSnapRemoved  step.Name = "raft old snapshot removed"
	StepSnapChecked  step.Name = "raft snapshots checked"
	StepSnapRestore  step.Name = "raft snapshot restore"
	StepSnapRestored step.Name = "raft snapshot restored"

	StepRenewMade    step.Name = "raft directory made anew"
	StepRenewAside   step.Name = "raft directory aside"
	StepRenewRenamed step.Name = "raft directory replaced"
	StepRenewDurable step.Name = "raft directory replaced for good"

	StepChange  step.Name = "raft holders change"
	StepChanged step.Name = "raft holders changed"
)

// Steps are all of them.
var Steps = []step.Name{
	StepDirMade, StepFileWritten, StepFileSynced, StepFileRenamed, StepFileDurable,
	StepLogMade, StepLogRenamed, StepLogDurable, StepLogAudited, StepLogOpened, StepLogSealed, StepLogOwned, StepLogCopied, StepLogReplaced,
	StepAppend, StepWritten, StepSynced, StepAppended, StepCut, StepWasCut, StepVote, StepVoted, StepApply, StepApplied,
	StepSnapMade, StepSnapWritten, StepSnapSynced, StepSnapMeta, StepSnapRenamed, StepSnapDurable, StepSnapAside, StepSnapRemoved,
	StepSnapChecked, StepSnapRestore, StepSnapRestored,
	StepRenewMade, StepRenewAside, StepRenewRenamed, StepRenewDurable,
	StepChange, StepChanged,
}
