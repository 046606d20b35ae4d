package game

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"
)

//go:embed report.html
var page string

// HTML writes the report as one page that needs nothing else: no script, no font, no picture from elsewhere.
func (r *Report) HTML(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"clock":   func(at time.Time) string { return at.Local().Format(time.TimeOnly) },
		"date":    func(at time.Time) string { return at.Local().Format(time.DateTime) },
		"round":   round,
		"join":    func(s []string) string { return strings.Join(s, ", ") },
		"title":   (*Played).title,
		"outcome": (*Played).outcome,
		"state":   func(p Promise) string { return p.state() },
		"class":   func(p Promise) string { return strings.ReplaceAll(strings.ToLower(p.state()), " ", "-") },
		"opt": func(d *time.Duration) string {
			if d == nil {
				return "–"
			}
			return round(*d)
		},
	}).Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(w, struct {
		*Report
		Verdict  string
		Timeline template.HTML // made of numbers and escaped names alone
		Probes   string
		Looks    string
	}{r, r.Verdict(), template.HTML(r.timeline()), r.Writes.String(), r.Reads.String()})
}

// Sizes of the timeline, in its own units.
const (
	lineWidth  = 1000
	lineLeft   = 130
	lineRight  = 20
	laneHeight = 24
	plotHeight = 70
	plotGap    = 26
	maxPoints  = 1200 // of a curve; between, the worst is kept
	minBar     = 3
)

type drawing struct {
	strings.Builder
	from time.Time
	span time.Duration
}

func (d *drawing) x(at time.Time) float64 {
	part := float64(at.Sub(d.from)) / float64(d.span)
	return lineLeft + min(max(part, 0), 1)*(lineWidth-lineLeft-lineRight)
}

func (d *drawing) text(x, y float64, class, s string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, template.HTMLEscapeString(s))
}

func (d *drawing) bar(from, to time.Time, y, height float64, class, title string) {
	x := d.x(from)
	fmt.Fprintf(d, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" class="%s"><title>%s</title></rect>`,
		x, y, max(d.x(to)-x, minBar), height, class, template.HTMLEscapeString(title))
}

// timeline is a drawing: a lane a node with its faults, then what the probes saw.
func (r *Report) timeline() string {
	d := &drawing{from: r.Began, span: max(r.Ended.Sub(r.Began), time.Second)}
	height := float64(len(r.Nodes)*laneHeight + laneHeight + 2*(plotHeight+plotGap) + 46)
	fmt.Fprintf(d, `<svg viewBox="0 0 %d %.0f" role="img" aria-label="timeline of the game"><title>Timeline of the game</title>`, lineWidth, height)
	d.ticks(height)
	y := float64(8)
	for _, n := range r.Nodes {
		d.text(lineLeft-8, y+15, "lane", n)
		fmt.Fprintf(d, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" class="rule"/>`, lineLeft, lineWidth-lineRight, y+laneHeight, y+laneHeight)
		for _, f := range r.Faults {
			if f.On != n || f.Began.IsZero() {
				continue
			}
			if rec := f.Cost.Recovered; rec != nil && *rec > 0 {
				d.bar(f.Ended, f.Ended.Add(*rec), y+9, laneHeight-15, "recovering", fmt.Sprintf("%s: whole again %s after its end", f.title(), round(*rec)))
			}
			class := "fault"
			if f.Failed != "" || f.void() != "" {
				class = "failed"
			}
			d.bar(f.Began, f.Ended, y+4, laneHeight-8, class, f.title()+": "+f.outcome())
			d.text(d.x(f.Began)+2, y+15, "kind", f.Fault)
		}
		y += laneHeight
	}
	d.text(lineLeft-8, y+15, "lane", "leader")
	r.leaders(d, y)
	y += laneHeight + plotGap
	r.changes(d, y)
	y += plotHeight + plotGap
	r.tasks(d, y)
	for _, p := range r.Promises {
		for _, b := range p.Breaches {
			x := d.x(b.At)
			fmt.Fprintf(d, `<line x1="%.1f" x2="%.1f" y1="4" y2="%.1f" class="breach"><title>%s</title></line>`, x, x, height-24, template.HTMLEscapeString(b.Text))
		}
	}
	d.WriteString("</svg>")
	return d.String()
}

// ticks draws the axis of time with at most ten marks.
func (d *drawing) ticks(height float64) {
	step := 10 * time.Second
	for _, s := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour} {
		if step = s; d.span/s <= 10 {
			break
		}
	}
	for at := time.Duration(0); at <= d.span; at += step {
		x := d.x(d.from.Add(at))
		fmt.Fprintf(d, `<line x1="%.1f" x2="%.1f" y1="4" y2="%.1f" class="tick"/>`, x, x, height-20)
		d.text(x, height-6, "axis", "+"+at.String())
	}
}

func (r *Report) leaders(d *drawing, y float64) {
	for i := 0; i < len(r.samples); {
		s := r.samples[i]
		j := i + 1
		for j < len(r.samples) && r.samples[j].Leader == s.Leader {
			j++
		}
		end := r.Ended
		if j < len(r.samples) {
			end = r.samples[j].At
		}
		if s.Leader == "" {
			d.bar(s.At, end, y+6, laneHeight-12, "outage", "no leader answered: "+strings.Join(s.NotWell, ", "))
		} else {
			d.bar(s.At, end, y+6, laneHeight-12, "leads", s.Leader+" leads")
			if d.x(end)-d.x(s.At) > float64(8*len(s.Leader)) {
				d.text(d.x(s.At)+3, y+16, "kind", s.Leader)
			}
		}
		i = j
	}
}

// changes draws how long each change took, on a logarithmic scale from 1 ms to 10 s, and where none was taken.
func (r *Report) changes(d *drawing, y float64) {
	const top, bottom = 10_000.0, 1.0 // milliseconds
	at := func(took time.Duration) float64 {
		ms := min(max(float64(took)/float64(time.Millisecond), bottom), top)
		return y + plotHeight*(1-math.Log(ms/bottom)/math.Log(top/bottom))
	}
	d.text(lineLeft-8, y+12, "lane", "a change takes")
	for _, mark := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second} {
		fmt.Fprintf(d, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" class="rule"/>`, lineLeft, lineWidth-lineRight, at(mark), at(mark))
		d.text(lineWidth-lineRight+2, at(mark)+3, "scale", mark.String())
	}
	for _, w := range r.writes {
		if !w.OK {
			d.bar(w.At, w.At.Add(w.Took), y, plotHeight, "outage", w.Err)
		}
	}
	var path strings.Builder
	for i, n := 0, max(1, len(r.writes)/maxPoints); i < len(r.writes); i += n {
		worst := r.writes[i]
		for _, w := range r.writes[i:min(i+n, len(r.writes))] {
			if w.Took > worst.Took {
				worst = w
			}
		}
		if worst.OK {
			fmt.Fprintf(&path, "M%.1f %.1fh.01", d.x(worst.At), at(worst.Took))
		}
	}
	fmt.Fprintf(d, `<path d="%s" class="dots"/>`, path.String())
}

// tasks draws how many of the watched jobs' tasks serve.
func (r *Report) tasks(d *drawing, y float64) {
	most := 1
	for _, s := range r.samples {
		most = max(most, s.Want)
	}
	d.text(lineLeft-8, y+12, "lane", "tasks that serve")
	d.text(lineWidth-lineRight+2, y+4, "scale", fmt.Sprint(most))
	d.text(lineWidth-lineRight+2, y+plotHeight+3, "scale", "0")
	curve := func(class string, value func(sample) int) {
		var path strings.Builder
		word := "M"
		for i, n := 0, max(1, len(r.samples)/maxPoints); i < len(r.samples); i += n {
			least, known := 0, false
			for _, s := range r.samples[i:min(i+n, len(r.samples))] {
				if s.OK && (!known || value(s) < least) {
					least, known = value(s), true
				}
			}
			if !known {
				word = "M"
				continue
			}
			h := y + plotHeight*(1-float64(least)/float64(most))
			fmt.Fprintf(&path, "%s%.1f %.1f", word, d.x(r.samples[i].At), h)
			word = "L"
		}
		fmt.Fprintf(d, `<path d="%s" class="%s"/>`, path.String(), class)
	}
	curve("want", func(s sample) int { return s.Want })
	curve("ready", func(s sample) int { return s.Ready })
}
