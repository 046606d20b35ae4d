package main

import (
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// progress draws the services of a job: in place on a terminal, as lines of changes elsewhere.
type progress struct {
	s     *screen
	lines map[string]string // the last line of each service
	drawn int               // lines on the terminal
}

func (p *progress) show(o *outlook) {
	if p.lines == nil {
		p.lines = map[string]string{}
	}
	live := p.s.live && len(o.services) < p.height() // what has scrolled away cannot be drawn over
	width := 0
	for i := range o.services {
		width = max(width, len(o.services[i].name))
	}
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	for i := range o.services {
		svc := &o.services[i]
		line := svc.String()
		changed := p.lines[svc.name] != line
		p.lines[svc.name] = line
		switch {
		case live:
			fmt.Fprintf(&b, "\r\x1b[K%s %s\n", p.mark(svc), p.fit(fmt.Sprintf("%-*s  %s", width, svc.name, line)))
		case changed:
			fmt.Fprintf(&b, "%s: %s\n", svc.name, line)
		}
	}
	if live {
		p.drawn = len(o.services)
	}
	fmt.Fprint(p.s.err, b.String())
}

func (p *progress) mark(svc *prospect) string {
	coloured := screen{colour: os.Getenv("NO_COLOR") == ""} // it is drawn on a terminal
	if svc.ready >= svc.want && svc.want > 0 {
		return coloured.paint(green, "✓")
	}
	return coloured.paint(yellow, "·")
}

// fit keeps a line from wrapping, which would break the drawing in place.
func (p *progress) fit(line string) string {
	_, width := terminalOf(p.s.err)
	const beside = 3 // the mark, a space, and one column that stays free
	if width <= beside || utf8.RuneCountInString(line) <= width-beside {
		return line
	}
	return string([]rune(line)[:width-beside-1]) + "…"
}

func (p *progress) height() int {
	f, ok := p.s.err.(*os.File)
	if !ok {
		return 0
	}
	_, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return height
}

// end leaves what is drawn where it is.
func (p *progress) end() { p.drawn = 0 }
