package node

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"shoal/consensus/job"
)

// Bounds of reading metrics of a task.
const (
	maxExpositionBytes = 8 << 20
	maxExpositionLine  = 64 << 10
)

// readMetrics reads the Prometheus text format (0.0.4 and OpenMetrics) and adds up, for each metric asked for, the series
// that match; NaN where none does. Series of other names are not looked into, so they cannot be wrong. It reads at most
// maxExpositionBytes.
func readMetrics(r io.Reader, asked []job.Metric) ([]float64, error) {
	out := make([]float64, len(asked))
	for i := range out {
		out[i] = math.NaN()
	}
	limited := &io.LimitedReader{R: r, N: maxExpositionBytes + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 4096), maxExpositionLine)
	for lines.Scan() {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		end := strings.IndexAny(line, "{ \t")
		if end < 0 {
			continue
		}
		name := line[:end]
		var labels map[string]string
		var value float64
		parsed := false
		for i := range asked {
			if asked[i].Name != name {
				continue
			}
			if !parsed {
				var err error
				if labels, value, err = parseSeries(line[end:]); err != nil {
					return nil, fmt.Errorf("metric %s: %w", name, err)
				}
				parsed = true
			}
			if !hasLabels(labels, asked[i].Labels) {
				continue
			}
			if math.IsNaN(out[i]) {
				out[i] = 0
			}
			out[i] += value
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("metrics: a line is longer than %d bytes", maxExpositionLine)
	} else if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("metrics: they are more than %d bytes", maxExpositionBytes)
	}
	return out, nil
}

func hasLabels(have, want map[string]string) bool {
	for k, v := range want {
		if h, ok := have[k]; !ok || h != v {
			return false
		}
	}
	return true
}

// parseSeries reads what follows a series' name: labels in braces, the value, and what may follow that (a time, an
// exemplar).
func parseSeries(rest string) (labels map[string]string, value float64, err error) {
	rest = strings.TrimLeft(rest, " \t")
	if strings.HasPrefix(rest, "{") {
		if labels, rest, err = parseLabels(rest[1:]); err != nil {
			return nil, 0, err
		}
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return nil, 0, errors.New("has no value")
	}
	value, err = strconv.ParseFloat(fields[0], 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return nil, 0, fmt.Errorf("%.40q is no value", fields[0])
	}
	return labels, value, nil
}

// parseLabels reads up to the closing brace.
func parseLabels(s string) (labels map[string]string, rest string, err error) {
	labels = map[string]string{}
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return nil, "", errors.New("labels without an end")
		}
		if s[0] == '}' {
			return labels, s[1:], nil
		}
		name, after, ok := strings.Cut(s, "=")
		after = strings.TrimLeft(after, " \t")
		if !ok || after == "" || after[0] != '"' {
			return nil, "", errors.New("a label without a value in quotes")
		}
		var b strings.Builder
		i := 1
		for ; i < len(after) && after[i] != '"'; i++ {
			c := after[i]
			if c == '\\' && i+1 < len(after) {
				i++
				if c = after[i]; c == 'n' {
					c = '\n'
				}
			}
			b.WriteByte(c)
		}
		if i >= len(after) {
			return nil, "", errors.New("a label's value without an end")
		}
		labels[strings.TrimSpace(name)] = b.String()
		s = after[i+1:]
	}
}
