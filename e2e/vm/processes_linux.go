package vm

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Processes lists what runs on this machine, without the kernel's own threads and without the server and its init.
func Processes() []Process {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	var out []Process
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d)) // it is a number
		cmdline, err := os.ReadFile(d + "/cmdline")
		if err != nil || len(cmdline) == 0 || pid == 1 || pid == os.Getpid() {
			continue // gone, dead, or the kernel's
		}
		p := Process{PID: pid, Command: strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))}
		env, _ := os.ReadFile(d + "/environ") // gone: nothing
		for _, v := range strings.Split(string(env), "\x00") {
			if strings.HasPrefix(v, "SHOAL_") {
				p.Env = append(p.Env, v)
			}
		}
		status, _ := os.ReadFile(d + "/status")
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			f := strings.Fields(value)
			switch {
			case len(f) == 0:
			case key == "PPid":
				p.Parent, _ = strconv.Atoi(f[0])
			case key == "NSpid":
				p.First = len(f) > 1 && f[len(f)-1] == "1"
			}
		}
		out = append(out, p)
	}
	return out
}
