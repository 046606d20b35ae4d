package job

import (
	"slices"
	"strings"
)

// Setting is something that admins decide about the whole cluster, with `shoal cluster set NAME=VALUE`.
type Setting struct {
	Name    string
	Default string
	Values  []string // what it takes
	Help    string   // one line
}

// Names of settings.
const (
	SettingStrategy   = "strategy"
	SettingPreemption = "preemption"
	SettingRebalance  = "rebalance"
)

// Settings lists what can be set, by name.
func Settings() []Setting {
	return []Setting{
		{SettingPreemption, "on", []string{"on", "off"}, "whether a task may take the room of one whose priority is lower by 10 or more"},
		{SettingRebalance, "on", []string{"on", "off"}, "whether tasks move by themselves to nodes that joined or returned"},
		{SettingStrategy, string(StrategySpread), []string{string(StrategySpread), string(StrategyBinpack)}, "which of equally good nodes gets a task: the least loaded, or the fullest that has room"},
	}
}

// Setting is the value of a setting, its default if it was not set; "" for a name that is not known.
func (c *Cluster) Setting(name string) string {
	if c != nil {
		if v, ok := c.Settings[name]; ok {
			return v
		}
	}
	for _, s := range Settings() {
		if s.Name == name {
			return s.Default
		}
	}
	return ""
}

// CheckSetting says what is wrong with a setting, nil if nothing. "" puts it back to its default.
func CheckSetting(name, value string) error {
	var known []string
	for _, s := range Settings() {
		if s.Name == name {
			if value == "" || slices.Contains(s.Values, value) {
				return nil
			}
			return Errorf(Invalid, "cluster setting %s: %q is not known; use %s", name, shorten(value), strings.Join(s.Values, " or "))
		}
		known = append(known, s.Name)
	}
	return Errorf(Invalid, "cluster setting %q is not known; there are %s", shorten(name), strings.Join(known, ", "))
}
