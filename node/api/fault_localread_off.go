//go:build !fault_localread

package api

const faultLocalRead = false
