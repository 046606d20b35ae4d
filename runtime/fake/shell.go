package fake

import (
	"slices"
	"strconv"
	"strings"
)

// The shell of the mini-language: words with '…', "…", \x and $NAME, commands joined by ; newline && ||, redirection
// only as >&2, "while LIST; do LIST; done", "if LIST; then LIST; [else LIST;] fi", and the built-ins exit, trap, exec.

// word is a word before expansion: its pieces, and whether variables in them count.
type word struct {
	pieces []piece
	op     string // ";", "&&" or "||" instead of a word
}

type piece struct {
	text   string
	expand bool
}

// plain gives a word that is written without quotes and variables, for keywords.
func (w word) plain() string {
	if w.op != "" {
		return w.op
	}
	if len(w.pieces) == 1 && w.pieces[0].expand {
		return w.pieces[0].text
	}
	return ""
}

func lex(script string) []word {
	var words []word
	var cur *word
	add := func(text string, expand bool) {
		if cur == nil {
			cur = &word{}
		}
		if n := len(cur.pieces); n > 0 && expand && cur.pieces[n-1].expand {
			cur.pieces[n-1].text += text
			return
		}
		cur.pieces = append(cur.pieces, piece{text, expand})
	}
	flush := func() {
		if cur != nil {
			words = append(words, *cur)
			cur = nil
		}
	}
	for i := 0; i < len(script); i++ {
		ch := script[i]
		switch {
		case ch == ' ' || ch == '\t':
			flush()
		case ch == ';' || ch == '\n':
			flush()
			words = append(words, word{op: ";"})
		case strings.HasPrefix(script[i:], "&&") || strings.HasPrefix(script[i:], "||"):
			flush()
			words = append(words, word{op: script[i : i+2]})
			i++
		case ch == '\'' || ch == '"':
			end := strings.IndexByte(script[i+1:], ch)
			if end < 0 {
				end = len(script) - i - 1
			}
			text := script[i+1 : i+1+end]
			add("", false)
			if ch == '"' {
				cur.pieces = append(cur.pieces, piece{text, true}, piece{"", false})
			} else {
				add(text, false)
			}
			i += end + 1
		case ch == '\\' && i+1 < len(script):
			i++
			add(script[i:i+1], false)
		default:
			add(string(ch), true)
		}
	}
	flush()
	return words
}

// shell runs words one after the other.
type shell struct {
	p     *process
	words []word
	last  int // exit code of the last command, $?
}

func runShell(p *process, args []string) int {
	if len(args) < 2 || args[0] != "-c" {
		return 0 // an interactive shell with nothing to read
	}
	sh := &shell{p: p, words: lex(args[1])}
	for len(sh.words) > 0 && !p.over() {
		sh.list(true)
		if len(sh.words) > 0 { // a keyword without its beginning
			sh.words = sh.words[1:]
		}
	}
	if p.exiting {
		return p.exitCode
	}
	return sh.last
}

var closing = []string{"do", "done", "then", "else", "fi"}

// list runs (or, with act false, skips) commands up to a closing keyword, which it leaves.
func (sh *shell) list(act bool) {
	for len(sh.words) > 0 {
		switch w := sh.words[0].plain(); {
		case slices.Contains(closing, w):
			return
		case w == ";":
			sh.words = sh.words[1:]
		case w == "&&" || w == "||":
			sh.words = sh.words[1:]
			sh.command(act && !sh.p.over() && (sh.last == 0) == (w == "&&"))
		default:
			sh.command(act && !sh.p.over())
		}
	}
}

func (sh *shell) command(act bool) {
	if len(sh.words) == 0 {
		return
	}
	switch sh.words[0].plain() {
	case "while":
		sh.while(act)
	case "if":
		sh.branch(act)
	default:
		sh.simple(act)
	}
}

// keyword skips the keyword that must come next.
func (sh *shell) keyword(k string) {
	if len(sh.words) > 0 && sh.words[0].plain() == k {
		sh.words = sh.words[1:]
	}
}

func (sh *shell) while(act bool) {
	begin := sh.words[1:]
	for {
		sh.words = begin
		sh.list(act)
		again := act && !sh.p.over() && sh.last == 0
		sh.keyword("do")
		sh.list(again)
		sh.keyword("done")
		if !again || sh.p.over() {
			return
		}
	}
}

func (sh *shell) branch(act bool) {
	sh.words = sh.words[1:]
	sh.list(act)
	yes := sh.last == 0
	sh.keyword("then")
	sh.list(act && yes)
	if len(sh.words) > 0 && sh.words[0].plain() == "else" {
		sh.keyword("else")
		sh.list(act && !yes)
	}
	sh.keyword("fi")
}

func (sh *shell) simple(act bool) {
	var args []string
	toErr := false
	for len(sh.words) > 0 && sh.words[0].op == "" {
		w := sh.words[0]
		sh.words = sh.words[1:]
		if w.plain() == ">&2" {
			toErr = true
			continue
		}
		if act {
			args = append(args, sh.expand(w)...)
		}
	}
	if !act || len(args) == 0 {
		return
	}
	p := sh.p
	if !p.pause(0) { // deliver pending traps
		return
	}
	if toErr {
		out := p.out
		p.out = p.err
		defer func() { p.out = out }()
	}
	switch args[0] {
	case "exit":
		p.exiting, p.exitCode = true, sh.last
		if len(args) > 1 {
			p.exitCode, _ = strconv.Atoi(args[1])
		}
	case "trap":
		if len(args) < 3 {
			return
		}
		p.mu.Lock()
		for _, s := range args[2:] {
			if name, ok := signalName(s); ok {
				p.traps[name] = args[1]
			}
		}
		p.mu.Unlock()
		sh.last = 0
	case "exec":
		p.exiting, p.exitCode = false, 0
		code := p.call(args[1:])
		p.exiting, p.exitCode = true, code
	default:
		sh.last = p.call(args)
	}
}

// expand gives the words that a word becomes: an unquoted variable is cut at its spaces, and is none when empty.
func (sh *shell) expand(w word) []string {
	quoted := false
	var b strings.Builder
	for _, pc := range w.pieces {
		if !pc.expand {
			quoted = true
			b.WriteString(pc.text)
			continue
		}
		b.WriteString(sh.variables(pc.text))
	}
	if quoted || !strings.Contains(w.pieces[0].text, "$") {
		return []string{b.String()}
	}
	return strings.Fields(b.String())
}

func (sh *shell) variables(s string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "$")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		if rest, ok := strings.CutPrefix(after, "?"); ok {
			b.WriteString(strconv.Itoa(sh.last))
			s = rest
			continue
		}
		n := 0
		for n < len(after) && (after[n] == '_' || after[n] >= 'A' && after[n] <= 'Z' || after[n] >= 'a' && after[n] <= 'z' || n > 0 && after[n] >= '0' && after[n] <= '9') {
			n++
		}
		for _, kv := range sh.p.env {
			if k, v, _ := strings.Cut(kv, "="); k == after[:n] {
				b.WriteString(v)
			}
		}
		s = after[n:]
	}
}
