package main

import (
	"fmt"
	"io"
	"sync"

	"shoal/node/api"
)

// logPrinter writes log records of one or more tasks. It is safe for concurrent use.
type logPrinter struct {
	s          *screen
	timestamps bool
	json       bool
	many       bool // lines carry the name of their task
	width      int  // of the longest name

	mu    sync.Mutex
	open  string // name whose line is not at its end, "" if none
	order map[string]int
}

// expect makes room for a task's name. Not for concurrent use with itself.
func (p *logPrinter) expect(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.order == nil {
		p.order = map[string]int{}
	}
	if _, known := p.order[name]; !known {
		p.order[name] = len(p.order)
	}
	p.width = max(p.width, len(name))
	p.many = len(p.order) > 1
}

// prefixStyles take turns, so that neighbours differ.
var prefixStyles = [...]style{cyan, yellow, green, magenta, blue}

func (p *logPrinter) print(name string, r *api.LogRecord) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		return p.s.jsonLine(r)
	}
	w := p.s.out
	if r.Stream == "stderr" && !p.many {
		w = p.s.err
	}
	line := ""
	if p.open != "" && p.open != name {
		line = "\n" // another task's line comes between
		p.open = ""
	}
	if p.open == "" {
		line += p.prefix(name, r)
	}
	line += string(textOf(r))
	p.open = name
	if !r.Partial {
		line += "\n"
		p.open = ""
	}
	_, err := io.WriteString(w, line)
	return err
}

func (p *logPrinter) prefix(name string, r *api.LogRecord) string {
	out := ""
	if p.many {
		st := prefixStyles[p.order[name]%len(prefixStyles)]
		out = p.s.paint(st, fmt.Sprintf("%-*s |", p.width, name)) + " "
	}
	if p.timestamps {
		out += p.s.paint(dim, stamp(r.Time)) + " "
	}
	return out
}

// textOf is a record's line, whatever its encoding.
func textOf(r *api.LogRecord) []byte {
	if r.Raw != nil {
		return r.Raw
	}
	return []byte(r.Text)
}
