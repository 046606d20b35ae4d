//go:build fault_norejoin

package gossip

// faultNoRejoin lets a node look for its peers when it starts, and never again. make chaos-controls must catch it.
const faultNoRejoin = true
