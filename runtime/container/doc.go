// Package container runs containers on this machine with libcontainer: it is the real implementation of the contract in
// package runtime. It knows processes, namespaces, cgroups, root file systems and logs; it does not know jobs, other nodes,
// registries or how a network is built: it is handed an image store, a network and a volume store, and asks them.
//
// Each container has one monitor process that outlives its creator. DESIGN.md tells which processes and files there are,
// and what every crash leaves behind.
package container
