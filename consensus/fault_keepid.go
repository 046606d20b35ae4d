//go:build fault_keepid

package consensus

// faultKeepID lets a node that lost its log come back under its old id. make chaos-controls must catch it.
const faultKeepID = true
