//go:build fault_nosync

package consensus

// This build forgets to sync. make chaos-controls must catch it: the power is cut, and what was acknowledged is gone.
func init() { boltNoSync = true }
