//go:build !fault_keepid

package consensus

const faultKeepID = false
