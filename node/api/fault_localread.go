//go:build fault_localread

package api

// faultLocalRead answers reads that are to be fresh with what this node knows. make chaos-controls must catch it.
const faultLocalRead = true
