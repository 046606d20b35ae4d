package network

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tcpListen is TCP_LISTEN in the state column of /proc/net/tcp.
const tcpListen = "0A"

// portOwner names the process that has p, for example "process 812 (nginx)"; empty if it cannot be found. It must run
// in the network namespace of the port.
func portOwner(p Port) string {
	inodes := boundSockets(p)
	if len(inodes) == 0 {
		return ""
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range dirs {
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			target, _ := os.Readlink(filepath.Join(dir, fd.Name()))
			inode, ok := strings.CutPrefix(target, "socket:[")
			if _, theirs := inodes[strings.TrimSuffix(inode, "]")]; !ok || !theirs {
				continue
			}
			pid := filepath.Base(filepath.Dir(dir))
			comm, _ := os.ReadFile(filepath.Join(filepath.Dir(dir), "comm"))
			return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(comm)))
		}
	}
	return ""
}

// boundSockets returns the sockets that stand in the way of p: inode to address.
func boundSockets(p Port) map[string]netip.Addr {
	inodes := map[string]netip.Addr{}
	for _, file := range []string{p.Protocol, p.Protocol + "6"} {
		f, err := os.Open("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		scan := bufio.NewScanner(f)
		for scan.Scan() {
			// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
			fields := strings.Fields(scan.Text())
			if len(fields) < 10 || (p.Protocol == TCP && fields[3] != tcpListen) {
				continue
			}
			addr, ok := parseProcAddr(fields[1])
			if ok && addr.Port() == p.HostPort && (addr.Addr().IsUnspecified() || p.wildcard() || addr.Addr().Unmap() == p.HostIP) {
				inodes[fields[9]] = addr.Addr().Unmap()
			}
		}
		f.Close()
	}
	return inodes
}

// parseProcAddr reads "0100007F:1F90": words of 4 bytes in the host's byte order, which is little endian on all that we
// build for, and a port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	if !ok || err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	addr, ok := netip.AddrFromSlice(b)
	number, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr, uint16(number)), ok && err == nil
}
