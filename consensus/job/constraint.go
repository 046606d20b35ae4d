package job

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Constraint restricts nodes: what a node says under Key, compared by Op with Value. A node that says nothing under a label
// or an attribute says "" there.
//
//	==, !=                      the same text, or not
//	in, not in                  one of a list: Value is "a,b"
//	=~, !~                      matches a regular expression (RE2), anywhere in the text unless anchored
//	>=, <=, >, <                versions or numbers, part by part: 6.10 > 6.9; with units: 16GiB. Never of a node that has none
//	contains, not contains      the node's text is a list with commas that has all of Value's
type Constraint struct {
	Key   string `json:"key"`
	Op    string `json:"op"`
	Value string `json:"value"`
}

// Node keys. The last two are followed by a name.
const (
	keyID       = "node.id"
	keyHostname = "node.hostname" // the node's name
	keyName     = "node.name"     // the same
	keyIP       = "node.ip"       // its address; a Value may be a prefix
	keyOS       = "node.platform.os"
	keyArch     = "node.platform.arch"
	labelKey    = "node.labels."
	attrKey     = "node.attr."
)

// operators, those first that others begin with.
var operators = []string{"==", "!=", "=~", "!~", ">=", "<=", ">", "<", "not contains", "contains", "not in", "in"}

// isWord tells operators that are written in letters.
func isWord(op string) bool { return op[0] >= 'a' && op[0] <= 'z' }

// MaxPatternBytes bounds a regular expression in a constraint.
const MaxPatternBytes = 256

func (c Constraint) String() string {
	switch c.Op {
	case "in", "not in":
		return c.Key + " " + c.Op + " (" + strings.ReplaceAll(c.Value, ",", ", ") + ")"
	case "contains", "not contains":
		return c.Key + " " + c.Op + " " + c.Value
	}
	return c.Key + c.Op + c.Value
}

// ParseConstraint reads a placement constraint: Docker's "node.labels.zone == a" and "node.id!=0f3c…", and with the other
// operators of Constraint "node.labels.zone in (a, b)", "node.attr.kernel >= 6.1", "node.hostname =~ ^db[0-9]+$". Spaces
// around the operator do not matter. Errors are of kind Invalid and tell the column, from 1.
func ParseConstraint(s string) (Constraint, error) {
	c, at, err := parseConstraint(s)
	if err != nil {
		return Constraint{}, Errorf(Invalid, "constraint %q, column %d: %v", shorten(s), at+1, err)
	}
	return c, nil
}

// parseConstraint also tells the byte at which it found what is wrong.
func parseConstraint(s string) (c Constraint, at int, err error) {
	begin := len(s) - len(strings.TrimLeftFunc(s, unicode.IsSpace))
	end := begin
	if i := strings.IndexFunc(s[begin:], func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("=!<>()", r) }); i >= 0 {
		end += i
	} else {
		end = len(s)
	}
	c.Key = s[begin:end]
	op := end + len(s[end:]) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
	if c.Key == "" {
		return c, begin, fmt.Errorf("there is no key; write for example node.labels.zone==a")
	}
	if c.Op = operatorAt(s[op:]); c.Op == "" {
		return c, op, fmt.Errorf("no operator after %s; use one of %s; for example node.labels.zone==a", quoteIfOdd(c.Key), strings.Join(operators, ", "))
	}
	rest := s[op+len(c.Op):]
	value := op + len(c.Op) + len(rest) - len(strings.TrimLeftFunc(rest, unicode.IsSpace))
	c.Value = strings.TrimSpace(rest)
	if isList(c.Op) {
		c.Value = strings.TrimSpace(c.Value)
		if open, shut := strings.HasPrefix(c.Value, "("), strings.HasSuffix(c.Value, ")"); open != shut || open && len(c.Value) < 2 {
			return c, value, fmt.Errorf("a parenthesis is missing; write for example %s %s (a, b)", quoteIfOdd(c.Key), c.Op)
		} else if open {
			c.Value = c.Value[1 : len(c.Value)-1]
		}
		items := strings.Split(c.Value, ",")
		for i := range items {
			items[i] = strings.TrimSpace(items[i])
		}
		c.Value = strings.Join(items, ",")
	}
	if err := c.checkKey(); err != nil {
		return c, begin, err
	}
	return c, value, c.check()
}

func isList(op string) bool { return strings.HasSuffix(op, "in") || strings.HasSuffix(op, "contains") }

// operatorAt is the operator that s begins with, "" if there is none. One of letters ends at a space or a parenthesis.
func operatorAt(s string) string {
	for _, op := range operators {
		rest, ok := strings.CutPrefix(s, op)
		if ok && (!isWord(op) || rest == "" || rest[0] == '(' || rest[0] == ' ' || rest[0] == '\t') {
			return op
		}
	}
	return ""
}

func (c Constraint) checkKey() error { return checkNodeKey(c.Key) }

// checkNodeKey says why nothing can be asked of a node under a key.
func checkNodeKey(key string) error {
	name, isLabel := strings.CutPrefix(key, labelKey)
	attr, isAttr := strings.CutPrefix(key, attrKey)
	switch {
	case isLabel && name == "":
		return fmt.Errorf("the label has no name; write %sNAME", labelKey)
	case isAttr && attr == "":
		return fmt.Errorf("the attribute has no name; write %sNAME; `shoal node inspect` lists them", attrKey)
	case key == "node.role":
		return fmt.Errorf("%q cannot be asked of a node: every node may lead and every node works; remove it, or label nodes and use %sNAME", key, labelKey)
	case strings.HasPrefix(key, "engine.labels."):
		return fmt.Errorf("%q cannot be asked of a node: there is no engine; use %s%s", shorten(key), labelKey, shorten(strings.TrimPrefix(key, "engine.labels.")))
	case !isLabel && !isAttr && !slices.Contains([]string{keyID, keyHostname, keyName, keyIP, keyOS, keyArch}, key):
		return fmt.Errorf("%q cannot be asked of a node; use %sNAME, %sNAME, %s, %s, %s, %s or %s", shorten(key), labelKey, attrKey, keyHostname, keyID, keyIP, keyOS, keyArch)
	case len(key) > MaxTextBytes || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '�' || strings.ContainsRune("=!<>()", r) }):
		return fmt.Errorf("a key is longer than %d bytes or holds spaces, control characters or one of =!<>(); correct it", MaxTextBytes)
	}
	return nil
}

func (c Constraint) check() error {
	if err := c.checkKey(); err != nil {
		return err
	}
	anyText := strings.HasPrefix(c.Key, labelKey) || strings.HasPrefix(c.Key, attrKey)
	switch {
	case !slices.Contains(operators, c.Op):
		return fmt.Errorf("operator %q is not known; use one of %s", shorten(c.Op), strings.Join(operators, ", "))
	case c.Value == "" && (!anyText || c.Op != "==" && c.Op != "!="):
		return fmt.Errorf("there is nothing to compare %s with; write a value after %s", c.Key, c.Op)
	case len(c.Key)+len(c.Value) > MaxTextBytes:
		return fmt.Errorf("it is longer than %d bytes; shorten it", MaxTextBytes)
	case strings.ContainsFunc(c.Value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }):
		return fmt.Errorf("it holds control characters or is not UTF-8; remove them")
	case c.Value != strings.TrimSpace(c.Value):
		return fmt.Errorf("the value begins or ends with a space; remove it")
	case isList(c.Op) && slices.ContainsFunc(strings.Split(c.Value, ","), func(v string) bool { return v == "" || v != strings.TrimSpace(v) || strings.ContainsAny(v, "()") }):
		return fmt.Errorf("the list has an empty element or one with a parenthesis; write for example (a, b)")
	case (c.Op == ">" || c.Op == "<") && strings.HasPrefix(c.Value, "="):
		return fmt.Errorf("%q is not a version; write %s= in one word", shorten(c.Value), c.Op)
	}
	_, err := c.Compile()
	return err
}

// ofArch tells whether a constraint asks for an architecture, which has several names.
func (c Constraint) ofArch() bool { return c.Key == keyArch || c.Key == attrKey+"arch" }

// Matcher is a constraint made ready to be asked of many nodes.
type Matcher struct {
	Constraint
	want   string // Value as a node says it
	re     *regexp.Regexp
	list   []string
	prefix netip.Prefix
}

// Compile makes a constraint ready. An error says what is wrong with its value.
func (c Constraint) Compile() (Matcher, error) {
	m := Matcher{Constraint: c, want: c.Value}
	switch c.Op {
	case "=~", "!~":
		if len(c.Value) > MaxPatternBytes {
			return m, fmt.Errorf("the regular expression is longer than %d bytes; shorten it", MaxPatternBytes)
		}
		re, err := regexp.Compile(c.Value)
		if err != nil {
			return m, fmt.Errorf("%v; the syntax is RE2's", err)
		}
		m.re = re
	case ">=", "<=", ">", "<":
		if _, ok := compareVersions(c.Value, c.Value); !ok {
			return m, fmt.Errorf("%q is not a version or a number; write for example 6.1", shorten(c.Value))
		}
	case "in", "not in", "contains", "not contains":
		m.list = strings.Split(c.Value, ",")
	}
	if c.ofArch() {
		m.want = goArch(m.want)
		for i := range m.list {
			m.list[i] = goArch(m.list[i])
		}
	}
	if c.Key == keyIP && (c.Op == "==" || c.Op == "!=") && strings.Contains(c.Value, "/") {
		p, err := netip.ParsePrefix(c.Value)
		if err != nil {
			return m, fmt.Errorf("%q is not a prefix such as 192.0.2.0/24", shorten(c.Value))
		}
		m.prefix = p.Masked()
	}
	return m, nil
}

// Holds tells whether a node satisfies the constraint.
func (m *Matcher) Holds(n *Node) bool {
	have, known := n.Value(m.Key)
	if !known {
		return false
	}
	want := m.want
	if m.ofArch() {
		have = goArch(have)
	}
	switch m.Op {
	case "==", "!=":
		same := have == want
		if m.prefix.IsValid() {
			same = m.prefix.Contains(n.Addr.Addr().Unmap())
		}
		return same == (m.Op == "==")
	case "in", "not in":
		return slices.Contains(m.list, have) == (m.Op == "in")
	case "=~", "!~":
		return m.re != nil && m.re.MatchString(have) == (m.Op == "=~")
	case "contains", "not contains":
		return containsAll(have, m.list) == (m.Op == "contains")
	}
	d, ok := compareVersions(have, want)
	switch {
	case !ok:
		return false
	case m.Op == ">=":
		return d >= 0
	case m.Op == "<=":
		return d <= 0
	case m.Op == ">":
		return d > 0
	case m.Op == "<":
		return d < 0
	}
	return false
}

func containsAll(list string, want []string) bool {
	have := strings.Split(list, ",")
	for i := range have {
		have[i] = strings.TrimSpace(have[i])
	}
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// goArch is Go's name of an architecture, where people use uname's.
func goArch(s string) string {
	switch s {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return s
}

// Value is what the node says under a key, "" if it says nothing; false for a key that cannot be asked of any node.
func (n *Node) Value(key string) (string, bool) {
	switch key {
	case keyID:
		return string(n.ID), true
	case keyHostname, keyName:
		return n.Name, true
	case keyIP:
		return n.Addr.Addr().Unmap().String(), true
	case keyOS:
		return "linux", true
	case keyArch:
		return n.Arch, true
	}
	if name, ok := strings.CutPrefix(key, labelKey); ok {
		return n.Labels[name], true
	}
	if name, ok := strings.CutPrefix(key, attrKey); ok {
		return n.attribute(name), true
	}
	return "", false
}

// attribute is what the node reported of itself; older nodes report the fields only.
func (n *Node) attribute(name string) string {
	if v, ok := n.Attributes[name]; ok {
		return v
	}
	switch name {
	case "arch":
		return n.Arch
	case "kernel":
		return n.Kernel
	case "os":
		return "linux"
	case "shoal.version":
		return n.Version
	}
	return ""
}
