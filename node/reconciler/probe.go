package reconciler

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"
)

// maxProbeBody bounds what is read of an answer.
const maxProbeBody = 64 << 10

// probeAddress is where a task's container is asked from outside.
func probeAddress(t *task) netip.Addr {
	if t.Service.NetworkMode == job.NetworkHost {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return t.info.Address
}

// earlyProbe is how often a container that was just started is asked from outside.
const earlyProbe = time.Second

// early tells that a check from outside is made before its first interval is over. Docker's checks begin after that; one
// from outside costs next to nothing, so it looks at once whether the container is well, and does not count if it is not.
func (c *checker) early(now time.Time) bool {
	return c.h.Probe != nil && c.state == job.HealthStarting && now.Sub(c.started) < c.h.Interval
}

// withTimesOf is the image's check at the times that the service gives; those may be nil.
func withTimesOf(image, times *job.Health) *job.Health {
	if times != nil {
		image.Interval = cmp.Or(times.Interval, image.Interval)
		image.Timeout = cmp.Or(times.Timeout, image.Timeout)
		image.StartPeriod = cmp.Or(times.StartPeriod, image.StartPeriod)
		image.StartInterval = cmp.Or(times.StartInterval, image.StartInterval)
		image.Retries = cmp.Or(times.Retries, image.Retries)
	}
	return image
}

// askFromOutside makes one check against a container's address. ctx bears the timeout.
func askFromOutside(ctx context.Context, at netip.Addr, h job.Health) (ok bool, output string, judged bool) {
	if !at.IsValid() {
		return false, "it has no address at which it could be asked", true
	}
	err := ask(ctx, net.JoinHostPort(at.String(), strconv.Itoa(int(h.Probe.Port))), h.Probe)
	switch {
	case err == nil:
		return true, "", true
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return false, fmt.Sprintf("%s: timed out after %v", h.Probe.Kind, h.Timeout), true
	case ctx.Err() != nil:
		return false, "", false
	}
	return false, fmt.Sprintf("%s: %v", h.Probe.Kind, err), true
}

func ask(ctx context.Context, addr string, p *job.Probe) error {
	switch p.Kind {
	case job.ProbeHTTP:
		return askHTTP(ctx, addr, p)
	case job.ProbeGRPC:
		return askGRPC(ctx, addr, p)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// insecure is right here: the check is made by address, of the node's own container, and says nothing of who it is.
func insecure() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// transport makes one connection and keeps none, goes through no proxy, and takes no more of a header than of a body.
func transport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxProbeBody, TLSClientConfig: insecure(),
		DialContext: new(net.Dialer).DialContext,
	}
}

func askHTTP(ctx context.Context, addr string, p *job.Probe) error {
	scheme, method, path := "http", p.Method, p.Path
	if p.TLS {
		scheme = "https"
	}
	if method == "" {
		method = http.MethodGet
	}
	if path == "" {
		path = "/"
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://"+addr+path, nil)
	if err != nil {
		return err
	}
	req.Host = p.Host
	req.Header.Set("User-Agent", "shoal-health")
	for _, line := range p.Headers {
		name, value, _ := strings.Cut(line, ":")
		req.Header.Set(name, strings.TrimSpace(value))
	}
	t := transport()
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req) // not a client: a redirection is an answer
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeBody))
	if err != nil && p.Body != "" {
		return fmt.Errorf("read the answer: %w", err)
	}
	if !wantedStatus(p.Status, resp.StatusCode) {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, firstWords(body))
	}
	if p.Body != "" && !bytes.Contains(body, []byte(p.Body)) {
		return fmt.Errorf("%s %s: %s, but %q is not in its first %d bytes: %s", method, path, resp.Status, p.Body, len(body), firstWords(body))
	}
	return nil
}

func wantedStatus(want []job.Range, got int) bool {
	if len(want) == 0 {
		return got >= 200 && got < 400
	}
	for _, r := range want {
		if got >= r.From && got <= r.To {
			return true
		}
	}
	return false
}

// firstWords is the beginning of an answer as one line for people.
func firstWords(b []byte) string {
	const shown = 120
	text := strings.ToValidUTF8(string(b[:min(len(b), shown)]), "")
	return strings.Join(strings.Fields(text), " ")
}

// askGRPC calls grpc.health.v1.Health/Check by hand: one message with one string to ask, one with one number to answer
// (github.com/grpc/grpc/blob/master/doc/health-checking.md and PROTOCOL-HTTP2.md). The library would be a megabyte.
func askGRPC(ctx context.Context, addr string, p *job.Probe) error {
	scheme, t := "http", transport()
	t.Protocols = new(http.Protocols)
	if p.TLS {
		scheme = "https"
		t.Protocols.SetHTTP2(true)
		t.TLSClientConfig.NextProtos = []string{"h2"}
	} else {
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	defer t.CloseIdleConnections()
	message := protoString(1, p.Service)
	frame := append([]byte{0}, binary.BigEndian.AppendUint32(nil, uint32(len(message)))...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+addr+"/grpc.health.v1.Health/Check", bytes.NewReader(append(frame, message...)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("User-Agent", "shoal-health")
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeBody))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not a gRPC server: %s", resp.Status)
	}
	status, text := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without a body has it among the headers
		status, text = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	if status != "0" {
		return fmt.Errorf("status %s: %s", grpcStatus(status), firstWords([]byte(text)))
	}
	serving, err := servingStatus(body)
	if err != nil {
		return err
	}
	if serving != 1 {
		return fmt.Errorf("it is %s", servingName(serving))
	}
	return nil
}

// protoString encodes one string field of a protocol buffer; nothing if it is empty.
func protoString(field int, s string) []byte {
	if s == "" {
		return nil
	}
	b := binary.AppendUvarint(nil, uint64(field)<<3|2)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// servingStatus reads the answer's frame and field 1 of its message; a field that is missing is 0.
func servingStatus(body []byte) (uint64, error) {
	if len(body) < 5 || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:5])) > len(body)-5 {
		return 0, fmt.Errorf("an answer of %d bytes is no message", len(body))
	}
	m := body[5 : 5+int(binary.BigEndian.Uint32(body[1:5]))]
	var status uint64
	for len(m) > 0 {
		key, n := binary.Uvarint(m)
		if n <= 0 {
			return 0, errors.New("the answer is not a message")
		}
		m = m[n:]
		value, n := binary.Uvarint(m)
		if n <= 0 {
			return 0, errors.New("the answer is not a message")
		}
		m = m[n:]
		switch key & 7 {
		case 0:
			if key>>3 == 1 {
				status = value
			}
		case 2:
			if value > uint64(len(m)) {
				return 0, errors.New("the answer is not a message")
			}
			m = m[value:]
		default:
			return 0, errors.New("the answer is another message")
		}
	}
	return status, nil
}

func servingName(n uint64) string {
	switch n {
	case 0:
		return "UNKNOWN"
	case 2:
		return "NOT_SERVING"
	case 3:
		return "SERVICE_UNKNOWN"
	}
	return strconv.FormatUint(n, 10)
}

// grpcStatus names the codes that a health check can end with.
func grpcStatus(code string) string {
	switch code {
	case "5":
		return "NOT_FOUND (it knows no such service)"
	case "12":
		return "UNIMPLEMENTED (it has no health service)"
	case "14":
		return "UNAVAILABLE"
	case "16":
		return "UNAUTHENTICATED"
	case "":
		return "missing"
	}
	return code
}
