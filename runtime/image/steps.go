package image

import "shoal/runtime/step"

// Steps are the moments between two changes on disk at which the store is killed by its crash test, about in the order in
// which an image passes them.
var Steps = []step.Name{
	"open", "open directories made", "open catalog read",
	"load entry", "blob begun", "load tree extracted", "load read", "load verified", "load described", "blob synced", "blob named",
	"load blobs named", "tree out of the way", "tree description named", "tree named", "load trees named",
	"file begun", "file written", "file synced", "file named", "catalog written",
	"copy begun", "download connected", "download broke off", "blob written", "blob kept", "copy config here", "copy layers here", "copy kept",
	"tree begun", "unpack child started", "tree extracted", "tree described", "settle", "settle sealed",
	"remove decided", "prune decided", "retire begun", "retire moved", "save blob", "quarantine", "sweep of an unsettled tree",
}
