//go:build !fault_norejoin

package gossip

const faultNoRejoin = false
