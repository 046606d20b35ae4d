package job

import (
	"strings"
	"testing"
	"time"

	"shoal/e2e/frugal"
)

func timetable(t testing.TB, cron, zone string) *Timetable {
	t.Helper()
	s := Schedule{Cron: cron, TimeZone: zone}
	table, err := s.Parse()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestCronNext(t *testing.T) {
	for _, tt := range []struct{ cron, zone, after, want string }{
		{"*/15 * * * *", "", "2026-01-01 00:00:30", "2026-01-01 00:15:00 UTC 2026-01-01 00:30:00 UTC"},
		{"30 2 * * *", "", "2026-02-28 02:30:00", "2026-03-01 02:30:00 UTC"},
		{"0 0 29 2 *", "", "2026-01-01 00:00:00", "2028-02-29 00:00:00 UTC 2032-02-29 00:00:00 UTC"},
		{"0 9-17/4 * * mon-fri", "", "2026-01-02 17:00:00", "2026-01-05 09:00:00 UTC 2026-01-05 13:00:00 UTC 2026-01-05 17:00:00 UTC 2026-01-06 09:00:00 UTC"},
		{"0 0 13 * 5", "", "2026-01-01 00:00:00", "2026-01-02 00:00:00 UTC 2026-01-09 00:00:00 UTC 2026-01-13 00:00:00 UTC"}, // either day
		{"0 12 * * 7", "", "2026-01-01 00:00:00", "2026-01-04 12:00:00 UTC"},
		{"5 4 1 jan,jul *", "", "2026-01-01 04:05:00", "2026-07-01 04:05:00 UTC"},
		{"@weekly", "", "2026-01-01 00:00:00", "2026-01-04 00:00:00 UTC"},
		{"@every 90m", "", "2026-01-01 00:10:00", "2026-01-01 01:40:00 UTC 2026-01-01 03:10:00 UTC"},
		{"0 8 * * *", "Asia/Kolkata", "2026-01-01 00:00:00", "2026-01-01 02:30:00 UTC"},

		// Berlin leaves 02:00 to 03:00 out on 2026-03-29 (at 01:00 UTC) and shows it twice on 2026-10-25.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 01:00:00 UTC 2026-03-30 00:30:00 UTC"},
		{"15,45 2 * * *", "Europe/Berlin", "2026-03-28 12:00:00", "2026-03-29 01:00:00 UTC 2026-03-30 00:15:00 UTC"}, // once
		{"30 2 * * *", "Europe/Berlin", "2026-10-24 12:00:00", "2026-10-25 00:30:00 UTC 2026-10-26 01:30:00 UTC"},
		{"0 3 * * *", "Europe/Berlin", "2026-10-24 12:00:00", "2026-10-25 02:00:00 UTC"},
		{"30 * * * *", "Europe/Berlin", "2026-03-29 00:00:00", "2026-03-29 00:30:00 UTC 2026-03-29 01:30:00 UTC"},
		{"30 * * * *", "Europe/Berlin", "2026-10-24 23:45:00", "2026-10-25 00:30:00 UTC 2026-10-25 01:30:00 UTC 2026-10-25 02:30:00 UTC"},
		{"0 */2 * * *", "Europe/Berlin", "2026-10-24 22:30:00", "2026-10-25 00:00:00 UTC 2026-10-25 03:00:00 UTC"},
		// Lord Howe moves by half an hour: 02:00 becomes 02:30 on 2026-10-04.
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 10:00:00", "2026-10-03 15:30:00 UTC 2026-10-04 15:15:00 UTC"},
		// Santiago has no midnight on 2026-09-06.
		{"@daily", "America/Santiago", "2026-09-05 12:00:00", "2026-09-06 04:00:00 UTC 2026-09-07 03:00:00 UTC"},
		{"*/30 * * * 0", "America/Santiago", "2026-09-05 12:00:00", "2026-09-06 04:00:00 UTC 2026-09-06 04:30:00 UTC"},
		// Samoa had no 30 December 2011.
		{"0 12 30 12 *", "Pacific/Apia", "2011-12-01 00:00:00", "2011-12-30 10:00:00 UTC 2012-12-29 22:00:00 UTC"},
	} {
		table := timetable(t, tt.cron, tt.zone)
		at, err := time.Parse(time.DateTime, tt.after)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for range (len(tt.want) + 1) / len("2026-01-01 00:00:00 UTC ") {
			at = table.Next(at)
			got = append(got, at.UTC().Format("2006-01-02 15:04:05 UTC"))
		}
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("%q in %q after %s:\n got  %s\n want %s", tt.cron, tt.zone, tt.after, g, tt.want)
		}
	}
}

// Against a stupid version of itself: every minute of four years, by what the clocks show.
func TestCronByClockAgainstEveryMinute(t *testing.T) {
	for _, cron := range []string{"*/7 * * * *", "0 * 1,15 * *", "59 * * 3 sat", "30 * 29 2 *"} {
		for _, zone := range []string{"UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Santiago"} {
			table := timetable(t, cron, zone)
			at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
			next := table.Next(at)
			for range 60 * 24 * 400 {
				at = at.Add(time.Minute)
				l := at.In(table.loc)
				y, m, d := l.Date()
				if fits := table.minute&(1<<l.Minute()) != 0 && table.fitsDay(y, m, d); fits != next.Equal(at) {
					t.Fatalf("%q in %s: %v fits %v, next is %v", cron, zone, at, fits, next)
				} else if fits {
					next = table.Next(at)
				}
			}
		}
	}
}

// Of times of day: each day of the calendar that fits gives each time once, in order, and those that clocks show are shown.
func TestCronByDayRunsEachTimeOnce(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "America/New_York", "America/Santiago", "Asia/Tehran"} {
		table := timetable(t, "10 1,2,23 * * *", zone)
		at := time.Date(2019, 12, 31, 23, 30, 0, 0, table.loc)
		for day := range 366 * 3 {
			for _, h := range []int{1, 2, 23} {
				last := at
				at = table.Next(at)
				l := at.In(table.loc)
				want := time.Date(2020, 1, 1+day, h, 10, 0, 0, time.UTC)
				if l.Day() != want.Day() || l.Hour() != h && l.Hour() != h+1 || !at.After(last) {
					t.Fatalf("%s: after %v comes %v, want %v", zone, last, l, want)
				}
			}
		}
	}
}

func TestCronLastDue(t *testing.T) {
	day := func(d, h, m int) time.Time { return time.Date(2026, 1, d, h, m, 0, 0, time.UTC) }
	for _, tt := range []struct {
		cron            string
		base, now, want time.Time
	}{
		{"0 3 * * *", day(1, 0, 0), day(1, 2, 59), time.Time{}},
		{"0 3 * * *", day(1, 0, 0), day(1, 3, 0), day(1, 3, 0)},
		{"0 3 * * *", day(1, 3, 0), day(1, 9, 0), time.Time{}},
		{"0 3 * * *", day(1, 3, 0), day(9, 9, 0), day(9, 3, 0)},
		{"* * * * *", time.Date(2018, 1, 1, 0, 0, 0, 0, time.UTC), day(9, 9, 0), day(9, 9, 0)},
		{"0 0 1 1 *", time.Date(2018, 6, 1, 0, 0, 0, 0, time.UTC), day(9, 9, 0), day(1, 0, 0)},
		{"@every 10m", day(1, 0, 5), day(1, 0, 40), day(1, 0, 35)},
		{"@every 10m", day(1, 0, 5), day(1, 0, 14), time.Time{}},
		{"0 3 * * *", day(5, 0, 0), day(2, 9, 0), time.Time{}}, // the clock was set back
		{"@every 10m", day(5, 0, 0), day(2, 9, 0), time.Time{}},
	} {
		if got := timetable(t, tt.cron, "").LastDue(tt.base, tt.now); !got.Equal(tt.want) {
			t.Errorf("%q from %v to %v: %v, want %v", tt.cron, tt.base, tt.now, got, tt.want)
		}
	}
}

func TestCronRefusesWithTheNextStep(t *testing.T) {
	for cron, want := range map[string]string{
		"":                 "is empty; write minute",
		"* * * *":          "has 4 fields; write five",
		"0 0 * * * *":      "has 6 fields",
		"60 * * * *":       `minute "60": "60" is no number from 0 to 59`,
		"* 5-1 * * *":      "5 comes after 1",
		"*/0 * * * *":      `step "0" is no number from 1 to 59`,
		"* * * foo *":      `"foo" is no number from 1 to 12`,
		"* * 0 * *":        "no number from 1 to 31",
		"* * * * 8":        "no number from 0 to 7",
		"+1 * * * *":       "no number",
		"0 0 31 2 *":       "there is no such day in any year",
		"@fortnightly":     "use @hourly",
		"@every 10s":       "no duration of whole seconds from 1m",
		"TZ=UTC * * * * *": "has 6 fields",
		"1,,2 * * * *":     `"" is no number`,
	} {
		s := Schedule{Cron: cron}
		if _, err := s.Parse(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", cron, err, want)
		}
	}
	for _, zone := range []string{"Mars/Olympus", "Local", "../etc/passwd", strings.Repeat("a", 99)} {
		s := Schedule{Cron: "@daily", TimeZone: zone}
		if _, err := s.Parse(); err == nil || !strings.Contains(err.Error(), "is not known") {
			t.Errorf("%q: %v", zone, err)
		}
	}
}

func FuzzCron(f *testing.F) {
	for _, s := range []string{"* * * * *", "0-5/2,7 */3 1 jan-mar sun", "@daily", "@every 1h", "? ? ? ? ?"} {
		f.Add(s, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, cron, zone string) {
		defer frugal.Watch(t)()
		s := Schedule{Cron: cron, TimeZone: zone}
		table, err := s.Parse()
		if err != nil {
			return
		}
		at := time.Date(2026, 3, 28, 0, 0, 0, 0, time.UTC)
		for range 4 {
			next := table.Next(at)
			if !next.After(at) {
				t.Fatalf("%q in %q: after %v comes %v", cron, zone, at, next)
			}
			at = next
		}
	})
}
