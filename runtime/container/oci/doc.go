// Package oci is the command line of an OCI runtime, runc's to the letter, over the same start of processes that shoal's own
// containers have. It is for other people's test suites and engines, which judge or use that start; it knows bundles and
// state directories, and nothing of images, networks, the monitor or the agent.
package oci
