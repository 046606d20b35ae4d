// Package stage is what happens between the agent and a container's command: launcher, exec helper, libcontainer's init,
// and in C the monitor and the reaping init. It knows the jobs that package container sends it over a socket and the files
// of a container's directory; it knows no image store, no network and no volumes, and imports as little as it can, because
// the program that is started for each container is made of it alone.
package stage
