package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// screen is where a verb writes. Colours and lines that change in place are for terminals; a pipe gets plain lines.
type screen struct {
	out, err io.Writer
	terminal bool // out is one
	colour   bool // out takes colours
	live     bool // err is a terminal: progress may be drawn in place
	width    int  // of out in characters; 0: no limit
}

func newScreen(c *cli.Context) *screen {
	s := &screen{out: c.App.Writer, err: c.App.ErrWriter}
	s.terminal, s.width = terminalOf(s.out)
	s.live, _ = terminalOf(s.err)
	s.colour = s.terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	s.live = s.live && os.Getenv("TERM") != "dumb"
	return s
}

func terminalOf(w any) (is bool, width int) {
	if o, ok := w.(*answer); ok {
		w = o.to
	}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false, 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return true, 0
	}
	return true, width
}

// style is an SGR code (ECMA-48, 8.3.117).
type style string

const (
	plainStyle style = ""
	bold       style = "1"
	dim        style = "2"
	red        style = "31"
	green      style = "32"
	yellow     style = "33"
	blue       style = "34"
	magenta    style = "35"
	cyan       style = "36"
)

// paint colours text if the screen takes it.
func (s *screen) paint(st style, text string) string {
	if !s.colour || st == plainStyle || text == "" {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

func (s *screen) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

// note tells something beside the answer, which a program that reads the answer shall not see.
func (s *screen) note(format string, args ...any) {
	fmt.Fprintf(s.err, "shoal: "+format+"\n", args...)
}

// stale warns of an answer that no leader confirmed.
func (s *screen) stale(is bool, index uint64) {
	if is {
		s.note("STALE: no leader answers; this is what the asked node knew at index %d", index)
	}
}

// staleHead warns of it where the answer names no index.
func (s *screen) staleHead() {
	s.note("STALE: no leader answers; this is what the asked node last knew")
}

// json prints a value for programs.
func (s *screen) json(v any) error {
	e := json.NewEncoder(s.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// jsonLine prints a value of a stream.
func (s *screen) jsonLine(v any) error { return json.NewEncoder(s.out).Encode(v) }

// cell is one text of a table.
type cell struct {
	text  string
	style style
}

// table has columns as wide as their widest text. Only the last column is cut, and only on a terminal.
type table struct {
	head []string
	rows [][]cell
}

func newTable(head ...string) *table { return &table{head: head} }

// add takes strings and cells. An empty string is shown as -, but for the last column.
func (t *table) add(texts ...any) {
	row := make([]cell, len(texts))
	for i, x := range texts {
		switch x := x.(type) {
		case cell:
			row[i] = x
		case string:
			row[i] = cell{text: x}
		default:
			row[i] = cell{text: fmt.Sprint(x)}
		}
		row[i].text = oneLine(row[i].text)
		if row[i].text == "" && i < len(texts)-1 {
			row[i].text = "-"
		}
	}
	t.rows = append(t.rows, row)
}

func (s *screen) table(t *table) {
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = cell{text: h, style: bold}
	}
	rows := append([][]cell{head}, t.rows...)
	widths := make([]int, len(head))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		s.row(row, widths)
	}
}

const columnGap = 2

func (s *screen) row(row []cell, widths []int) {
	var b strings.Builder
	at := 0
	for i, c := range row {
		if i == len(row)-1 {
			b.WriteString(s.paint(c.style, s.cut(c.text, at)))
			break
		}
		pad := widths[i] - utf8.RuneCountInString(c.text) + columnGap
		b.WriteString(s.paint(c.style, c.text) + strings.Repeat(" ", pad))
		at += widths[i] + columnGap
	}
	fmt.Fprintln(s.out, strings.TrimRight(b.String(), " "))
}

// cut shortens text that begins at a column to what is left of the line, but never to less than what says something.
func (s *screen) cut(text string, at int) string {
	const least = 20
	room := s.width - at
	if s.width == 0 || room < least || utf8.RuneCountInString(text) <= room {
		return text
	}
	return string([]rune(text)[:room-1]) + "…"
}

// oneLine keeps text that came from outside from breaking the layout or writing to the terminal.
func oneLine(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r) && r != ' ':
			return -1
		}
		return r
	}, text))
}

func (s *screen) errf(format string, args ...any) { fmt.Fprintf(s.err, format, args...) }
