package main

import (
	"fmt"
	"html/template"
	"strings"
)

const (
	chartWidth, chartHeight = 460, 150
	chartPad                = 6
)

var colours = []string{"#1f77b4", "#2ca02c", "#d62728"}

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>shoal: soak</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1000px; color: #222; background: #fff }
.charts { display: flex; flex-wrap: wrap; gap: 16px } figure { margin: 0; width: 470px } figcaption { font-weight: 600 }
svg { border: 1px solid #ccc; width: 100% } table { border-collapse: collapse } td, th { padding: 2px 10px; text-align: right }
td:first-child, th:first-child { text-align: left } tr.grows { background: #fdd } tr.unjudged { color: #888 }
</style>
<h1>A soak of {{.Length}}: {{.Verdict}}</h1>
<p>Three machines, used without a pause but for a rest every five minutes. A figure is flat if the median of the last quarter,
or the slope after the first one, is within what is allowed of the second quarter. Counts are compared at rest only, and for all machines together: tasks move. The agent of
the last machine is killed now and then, so that its own figures are drawn and not judged. Memory and disk in KiB.
{{range .Legend}}<b style="color:{{.Colour}}">&#9632; {{.Name}}</b> {{end}}</p>
<div class="charts">{{range .Charts}}
<figure><figcaption>{{.Name}}</figcaption>
<svg viewBox="0 0 {{.W}} {{.H}}" role="img" aria-label="{{.Name}}">
{{range .Lines}}<polyline fill="none" stroke="{{.Colour}}" stroke-width="1" points="{{.Points}}"/>{{end}}
<text x="4" y="14" font-size="11" fill="#666">{{.Max}}</text><text x="4" y="{{.Foot}}" font-size="11" fill="#666">{{.Min}}</text>
</svg></figure>{{end}}
</div>
<h2>Verdicts</h2>
<table><tr><th>figure<th>machine<th>second quarter<th>last quarter<th>per hour<th>allowed<th>verdict</tr>
{{range .Rows}}<tr class="{{.Class}}"><td>{{.Metric}}<td>{{.Machine}}<td>{{.Early}}<td>{{.Late}}<td>{{.PerHour}}<td>{{.Allowed}}<td>{{.Word}}</tr>
{{end}}</table></html>
`))

type line struct{ Colour, Points string }

type legend struct{ Colour, Name string }

type chart struct {
	Name       string
	W, H, Foot int
	Lines      []line
	Min, Max   string
}

type row struct{ Class, Metric, Machine, Early, Late, PerHour, Allowed, Word string }

// html draws all samples and tells the verdicts, in one file that needs nothing else.
func html(samples map[string]map[string][]point, verdicts []verdict) string {
	data := struct {
		Length, Verdict string
		Legend          []legend
		Charts          []chart
		Rows            []row
	}{Verdict: "flat"}
	end := 0.0
	for _, byMachine := range samples {
		for _, points := range byMachine {
			end = max(end, points[len(points)-1].at)
		}
	}
	data.Length = fmt.Sprintf("%.0f minutes", end/60)
	for i, colour := range colours {
		data.Legend = append(data.Legend, legend{colour, fmt.Sprintf("m%d", i+1)})
	}
	for _, m := range metrics {
		if len(samples[m.name]) > 0 {
			data.Charts = append(data.Charts, draw(m, samples[m.name], end))
		}
	}
	for _, v := range verdicts {
		class := ""
		switch {
		case !v.judged:
			class = "unjudged"
		case !v.flat:
			class, data.Verdict = "grows", "something grows"
		}
		data.Rows = append(data.Rows, row{
			class, v.metric, v.machine, fmt.Sprintf("%.0f", v.early), fmt.Sprintf("%.0f", v.late),
			fmt.Sprintf("%+.1f", v.perHour), fmt.Sprintf("%+.0f", v.allowed), v.word(),
		})
	}
	var b strings.Builder
	if err := pageTemplate.Execute(&b, data); err != nil {
		panic(err) // the template and its data are ours
	}
	return b.String()
}

// draw draws one figure of all machines, from zero: a small ripple shall look small.
func draw(m metric, byMachine map[string][]point, end float64) chart {
	high := 1.0
	for _, points := range byMachine {
		for _, p := range points {
			high = max(high, p.value)
		}
	}
	c := chart{Name: m.name, W: chartWidth, H: chartHeight, Foot: chartHeight - 4, Min: "0", Max: round(high)}
	for i, colour := range colours {
		points := byMachine[fmt.Sprintf("m%d", i+1)]
		var b strings.Builder
		for _, p := range points {
			x := chartPad + p.at/max(end, 1)*(chartWidth-2*chartPad)
			y := chartHeight - chartPad - p.value/high*(chartHeight-2*chartPad)
			fmt.Fprintf(&b, "%.1f,%.1f ", x, y)
		}
		c.Lines = append(c.Lines, line{colour, strings.TrimSpace(b.String())})
	}
	return c
}
