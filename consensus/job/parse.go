package job

import (
	"fmt"
	"math"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// ParsePort reads a port as `docker run -p` writes it: [[IP:][PUBLISHED]:]TARGET[/PROTOCOL], where PUBLISHED and TARGET
// may be ranges of equal length ("8000-8002:80-82"). Without PUBLISHED the node chooses. IPv6 addresses stand in
// brackets. At most MaxPorts ports come back; errors are of kind Invalid.
func ParsePort(s string) ([]Port, error) {
	ports, err := parsePort(s)
	if err != nil {
		return nil, Errorf(Invalid, "port %q: %v", shorten(s), err)
	}
	return ports, nil
}

func parsePort(s string) ([]Port, error) {
	rest, proto, hasProto := strings.Cut(s, "/")
	if !hasProto {
		proto = "tcp"
	}
	proto = strings.ToLower(proto)
	if proto != "tcp" && proto != "udp" {
		return nil, fmt.Errorf("protocol %q is not known; use tcp or udp", shorten(proto))
	}
	var target, published, ip string
	target = rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		target, published = rest[i+1:], rest[:i]
		if i = strings.LastIndexByte(published, ':'); i >= 0 {
			ip, published = published[:i], published[i+1:]
		}
	}
	host, err := parseHostIP(ip)
	if err != nil {
		return nil, err
	}
	first, last, err := parsePortRange(target)
	if err != nil {
		return nil, fmt.Errorf("container port %w", err)
	}
	n := int(last) - int(first) + 1
	if n > MaxPorts {
		return nil, fmt.Errorf("%d ports are more than %d; publish fewer", n, MaxPorts)
	}
	var pubFirst uint16
	if published != "" {
		var pubLast uint16
		if pubFirst, pubLast, err = parsePortRange(published); err != nil {
			return nil, fmt.Errorf("published port %w", err)
		}
		if int(pubLast)-int(pubFirst)+1 != n {
			return nil, fmt.Errorf("the ranges %s and %s differ in length; make them equal", published, target)
		}
	}
	ports := make([]Port, 0, n)
	for i := range uint16(n) {
		p := Port{HostIP: host, Target: first + i, Protocol: proto}
		if published != "" {
			p.Published = pubFirst + i
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func parseHostIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	} else if strings.Contains(s, ":") {
		return netip.Addr{}, fmt.Errorf("address %q: put an IPv6 address into brackets", shorten(s))
	}
	a, err := netip.ParseAddr(bare)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address; write it in numbers, without a zone", shorten(s))
	}
	return a.Unmap(), nil
}

func parsePortRange(s string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a {
		return 0, 0, fmt.Errorf("%q is not a number from 1 to 65535 or a range of them", shorten(s))
	}
	return uint16(a), uint16(b), nil
}

// ParseMount reads a mount as `docker run -v` writes it: [SOURCE:]TARGET[:OPTION,...] with the options ro, rw and nocopy.
// A source that begins with / or . is a directory or file of the node (made if it is missing), anything else a volume;
// without a source the volume is anonymous. A source that begins with . stays relative: the caller resolves it. Errors
// are of kind Invalid.
func ParseMount(s string) (Mount, error) {
	m, err := parseMount(s)
	if err != nil {
		return Mount{}, Errorf(Invalid, "mount %q: %v", shorten(s), err)
	}
	return m, nil
}

func parseMount(s string) (Mount, error) {
	parts := strings.Split(s, ":")
	m := Mount{Type: MountVolume}
	var options string
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
	case 3:
		m.Source, m.Target, options = parts[0], parts[1], parts[2]
		if options == "" {
			return m, fmt.Errorf("there is nothing behind the last colon; remove it")
		}
	default:
		return m, fmt.Errorf("too many colons; write SOURCE:TARGET:OPTIONS")
	}
	if len(parts) > 1 && m.Source == "" {
		return m, fmt.Errorf("there is no source in front of the colon; name a volume or an absolute path")
	}
	if strings.HasPrefix(m.Source, "/") || strings.HasPrefix(m.Source, ".") {
		m.Type, m.CreateHostPath = MountBind, true
	}
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "", "rw":
		case "ro":
			m.ReadOnly = true
		case "nocopy":
			if m.Type != MountVolume {
				return m, fmt.Errorf("option nocopy is for volumes; remove it")
			}
			m.NoCopy = true
		default:
			return m, fmt.Errorf("option %q is not honoured; use ro, rw or nocopy", shorten(o))
		}
	}
	if m.Target != "" {
		m.Target = path.Clean(m.Target)
	}
	check := m
	if m.Type == MountBind && !path.IsAbs(m.Source) {
		check.Source = path.Join("/", m.Source)
	}
	return m, check.check()
}

// byteUnits are Docker's: powers of 1024, whether or not the "i" is written.
var byteUnits = map[string]int64{"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}

// ParseBytes reads an amount of memory such as "512m", "1.5GiB", "64 MB" or "1048576". Units are powers of 1024, as with
// Docker. Errors are of kind Invalid.
func ParseBytes(s string) (int64, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	end := strings.LastIndexAny(text, "0123456789.") + 1
	number, unit := text[:end], strings.TrimSpace(text[end:])
	if len(unit) > 1 {
		unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	}
	factor, known := byteUnits[unit]
	v, ok := parseDecimal(number, factor)
	if !known || !ok {
		return 0, Errorf(Invalid, "size %q: not an amount of bytes; write for example 512m or 1.5g", shorten(s))
	}
	return v, nil
}

// ParseCPUs reads a number of CPUs such as "0.5" or "2" into billionths, exactly. Errors are of kind Invalid.
func ParseCPUs(s string) (int64, error) {
	v, ok := parseDecimal(strings.TrimSpace(s), 1_000_000_000)
	if !ok {
		return 0, Errorf(Invalid, "cpus %q: not a number of CPUs; write for example 0.5 or 2", shorten(s))
	}
	return v, nil
}

// parseDecimal reads digits[.digits] times factor, cutting off what is below 1. Floating point would make 0.1 CPUs
// 100000001 billionths.
func parseDecimal(s string, factor int64) (int64, bool) {
	whole, frac, _ := strings.Cut(s, ".")
	if whole == "" && frac == "" || len(s) > 40 {
		return 0, false
	}
	var v int64
	for i := range len(whole) {
		d := int64(whole[i]) - '0'
		if d < 0 || d > 9 || v > (math.MaxInt64-d)/10 {
			return 0, false
		}
		v = v*10 + d
	}
	if factor > 0 && v > math.MaxInt64/factor {
		return 0, false
	}
	v *= factor
	scale := factor
	rest := int64(0)
	for i := range len(frac) {
		d := int64(frac[i]) - '0'
		if d < 0 || d > 9 {
			return 0, false
		}
		// rest is exact for powers of ten and off by less than one unit a digit for powers of two.
		rest += scale * d / 10
		scale /= 10
	}
	if v > math.MaxInt64-rest {
		return 0, false
	}
	return v + rest, true
}

// FormatBytes writes an amount for people: "512 MiB", "1.5 GiB", "10 B".
func FormatBytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for math.Abs(v) >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64) + " " + units[i]
}

// FormatCPUs writes billionths of a CPU for people: "0.5".
func FormatCPUs(nano int64) string {
	return strconv.FormatFloat(float64(nano)/1e9, 'f', -1, 64)
}
