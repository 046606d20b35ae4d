package job

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // 450 KB, so that time zones mean the same on machines without a tz database
)

// Timetable is a schedule's expression, ready to be asked for times.
//
// Daylight saving, as Vixie's cron has it. An expression whose hour field is * goes on by real time: it runs in both of the
// hours that the clocks show twice, and in none that they leave out. Any other names times of day: what falls into an hour
// that is left out runs when that hour would have begun, that is at its end, once; what falls into one that comes twice
// runs in the first of the two only.
type Timetable struct {
	every                    time.Duration // of @every; 0: the fields count
	minute, hour, dom, month uint64        // bit n: n is in it
	dow                      uint64
	domAny, dowAny           bool // the field is *: the other one alone decides
	byClock                  bool // the hour field is *: real time
	loc                      *time.Location
}

// never is how far Next looks: 29 February of a leap year may be eight years away, over 2100.
const never = 9 * 366 * 24 * time.Hour

// Parse reads the schedule. The error says which part is wrong and what may stand there.
func (s *Schedule) Parse() (*Timetable, error) {
	loc := time.UTC
	if s.TimeZone != "" {
		var err error
		if s.TimeZone == "Local" || len(s.TimeZone) > 64 {
			return nil, fmt.Errorf("time zone %q is not known; use a name such as Europe/Berlin", shorten(s.TimeZone))
		}
		if loc, err = time.LoadLocation(s.TimeZone); err != nil {
			return nil, fmt.Errorf("time zone %q is not known; use a name such as Europe/Berlin", shorten(s.TimeZone))
		}
	}
	if len(s.Cron) > MaxCronBytes {
		return nil, fmt.Errorf("cron expression of %d bytes: at most %d", len(s.Cron), MaxCronBytes)
	}
	t, err := parseCron(strings.TrimSpace(s.Cron))
	if err != nil {
		return nil, fmt.Errorf("cron expression %q: %w", shorten(s.Cron), err)
	}
	t.loc = loc
	if t.every == 0 && t.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, loc)).IsZero() {
		return nil, fmt.Errorf("cron expression %q: there is no such day in any year", shorten(s.Cron))
	}
	return t, nil
}

func parseCron(text string) (*Timetable, error) {
	if text == "" {
		return nil, fmt.Errorf("is empty; write minute, hour, day of month, month and day of week, such as \"30 2 * * *\"")
	}
	if strings.HasPrefix(text, "@") {
		return parseNickname(text)
	}
	f := strings.Fields(text)
	if len(f) != 5 {
		return nil, fmt.Errorf("has %d fields; write five: minute, hour, day of month, month and day of week", len(f))
	}
	t := &Timetable{domAny: f[2] == "*" || f[2] == "?", dowAny: f[4] == "*" || f[4] == "?", byClock: f[1] == "*"}
	for i, field := range []struct {
		into     *uint64
		name     string
		from, to int
		names    string
	}{
		{&t.minute, "minute", 0, 59, ""}, {&t.hour, "hour", 0, 23, ""}, {&t.dom, "day of month", 1, 31, ""},
		{&t.month, "month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"},
		{&t.dow, "day of week", 0, 7, "sun mon tue wed thu fri sat"},
	} {
		set, err := parseCronField(f[i], field.from, field.to, strings.Fields(field.names))
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", field.name, shorten(f[i]), err)
		}
		*field.into = set
	}
	if t.dow&(1<<7) != 0 { // 7 is Sunday too
		t.dow |= 1
	}
	return t, nil
}

func parseNickname(text string) (*Timetable, error) {
	switch strings.ToLower(text) {
	case "@yearly", "@annually":
		return parseCron("0 0 1 1 *")
	case "@monthly":
		return parseCron("0 0 1 * *")
	case "@weekly":
		return parseCron("0 0 * * 0")
	case "@daily", "@midnight":
		return parseCron("0 0 * * *")
	case "@hourly":
		return parseCron("0 * * * *")
	}
	if every, ok := strings.CutPrefix(text, "@every "); ok {
		d, err := time.ParseDuration(strings.TrimSpace(every))
		if err != nil || d < time.Minute || d > MaxBatchTime || d%time.Second != 0 {
			return nil, fmt.Errorf("%q is no duration of whole seconds from 1m to %v", shorten(every), MaxBatchTime)
		}
		return &Timetable{every: d}, nil
	}
	return nil, fmt.Errorf("use @hourly, @daily, @weekly, @monthly, @yearly, @every 10m, or five fields")
}

// parseCronField reads a list of *, n, n-m, each with /step. names stand for numbers from the field's least.
func parseCronField(text string, from, to int, names []string) (set uint64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		span, stepText, hasStep := strings.Cut(part, "/")
		step := 1
		if hasStep {
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 || step > to {
				return 0, fmt.Errorf("step %q is no number from 1 to %d", shorten(stepText), to)
			}
		}
		a, b := from, to
		if span != "*" && (span != "?" || hasStep) {
			low, high, isRange := strings.Cut(span, "-")
			if a, err = cronNumber(low, from, to, names); err != nil {
				return 0, err
			}
			switch {
			case isRange:
				if b, err = cronNumber(high, from, to, names); err != nil {
					return 0, err
				}
			case !hasStep:
				b = a
			}
			if a > b {
				return 0, fmt.Errorf("%d comes after %d", a, b)
			}
		} else if to == 7 {
			b = 6 // Sunday once
		}
		for n := a; n <= b; n += step {
			set |= 1 << n
		}
	}
	return set, nil
}

func cronNumber(text string, from, to int, names []string) (int, error) {
	for i, n := range names {
		if strings.EqualFold(text, n) {
			return from + i, nil
		}
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < from || n > to || text[0] == '+' || text[0] == '-' {
		return 0, fmt.Errorf("%q is no number from %d to %d", shorten(text), from, to)
	}
	return n, nil
}

// Next is the first due time after t, zero when there is none within nine years. With @every it is t and the interval.
func (c *Timetable) Next(t time.Time) time.Time {
	if c.every > 0 {
		return t.Add(c.every)
	}
	if c.byClock {
		return c.nextByClock(t)
	}
	return c.nextByDay(t)
}

// nextByClock goes on by real time; the clocks only tell whether an instant fits.
func (c *Timetable) nextByClock(t time.Time) time.Time {
	t = t.In(c.loc)
	limit := t.Add(never)
	t = t.Add(time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
	for t.Before(limit) {
		switch y, m, d := t.Date(); {
		case !c.fitsDay(y, m, d):
			next := time.Date(y, m, d+1, 0, 0, 0, 0, c.loc)
			if !next.After(t) { // midnight comes twice, or not at all
				next = t.Add(time.Hour)
			}
			t = next
		case c.minute&(1<<t.Minute()) == 0:
			t = t.Add(time.Minute)
		default:
			return t
		}
	}
	return time.Time{}
}

// nextByDay looks for times of day, and then for when these are.
func (c *Timetable) nextByDay(t time.Time) time.Time {
	limit := t.Add(never)
	// The day before too: clocks that are set back over midnight show yesterday again.
	y, m, d := t.In(c.loc).Date()
	for d--; ; d++ {
		day := time.Date(y, m, d, 12, 0, 0, 0, time.UTC)
		if day.After(limit) {
			return time.Time{}
		}
		dy, dm, dd := day.Date()
		if !c.fitsDay(dy, dm, dd) {
			continue
		}
		var best time.Time
		for h := c.hour; h != 0; h &= h - 1 {
			for mi := c.minute; mi != 0; mi &= mi - 1 {
				at := instant(dy, dm, dd, bits.TrailingZeros64(h), bits.TrailingZeros64(mi), c.loc)
				if at.After(t) && (best.IsZero() || at.Before(best)) {
					best = at
				}
			}
		}
		if !best.IsZero() {
			return best
		}
	}
}

// fitsDay follows cron's rule: when both the day of month and of week are given, either is enough.
func (c *Timetable) fitsDay(y int, m time.Month, d int) bool {
	if c.month&(1<<m) == 0 {
		return false
	}
	dom := c.dom&(1<<d) != 0
	dow := c.dow&(1<<time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Weekday()) != 0
	if c.domAny || c.dowAny {
		return dom && dow
	}
	return dom || dow
}

// instant is when the clocks of a place first show a time, or when they jump over it.
func instant(y int, m time.Month, d, h, mi int, loc *time.Location) time.Time {
	want := time.Date(y, m, d, h, mi, 0, 0, time.UTC)
	// With the offsets of a day before and a day after: whichever shows the wanted time, the earlier first.
	_, before := want.Add(-24 * time.Hour).In(loc).Zone()
	_, after := want.Add(24 * time.Hour).In(loc).Zone()
	a := want.Add(-time.Duration(before) * time.Second)
	b := want.Add(-time.Duration(after) * time.Second)
	shows := func(t time.Time) bool {
		_, off := t.In(loc).Zone()
		return t.Add(time.Duration(off) * time.Second).Equal(want)
	}
	first, second := a, b
	if b.Before(a) {
		first, second = b, a
	}
	switch {
	case shows(first):
		return first.In(loc)
	case shows(second):
		return second.In(loc)
	}
	// It is jumped over: the jump lies between the two, and is a whole minute.
	lo, hi := first.Add(-time.Minute), second.Add(time.Minute)
	_, off := lo.In(loc).Zone()
	for hi.Sub(lo) > time.Second {
		mid := lo.Add(hi.Sub(lo) / 2)
		if _, o := mid.In(loc).Zone(); o == off {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi.Truncate(time.Second).In(loc)
}

// LastDue is the latest due time after base and not after now, zero when there is none.
func (c *Timetable) LastDue(base, now time.Time) time.Time {
	if c.every > 0 {
		if n := now.Sub(base) / c.every; n > 0 {
			return base.Add(n * c.every)
		}
		return time.Time{}
	}
	// From short looks back to long ones: each finds little more than the one before would have.
	for _, back := range []time.Duration{time.Hour, 2 * 24 * time.Hour, 40 * 24 * time.Hour, never} {
		from := now.Add(-back)
		if from.Before(base) {
			from = base
		}
		var last time.Time
		for at := c.Next(from); !at.IsZero() && !at.After(now); at = c.Next(at) {
			last = at
		}
		if !last.IsZero() || from.Equal(base) {
			return last
		}
	}
	return time.Time{}
}
