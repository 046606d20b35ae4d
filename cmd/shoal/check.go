package main

import (
	"cmp"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/runtime/container"
	"shoal/runtime/network"
)

// machineFeature is one line of `shoal agent --check`.
type machineFeature struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"`          // without it no container runs
	Lost   string `json:"lost,omitempty"`  // what is missing without it
	Why    string `json:"error,omitempty"` // it is not there, where that is known
}

// machineFeatures asks all parts what they need and use of this machine.
func machineFeatures(dataDir string) []machineFeature {
	var out []machineFeature
	for _, f := range container.ProbeIn(filepath.Join(dataDir, "containers")) {
		out = append(out, machineFeature{f.Name, f.OK, f.Needed, f.Lost, f.Why})
	}
	for _, f := range network.Probe() {
		m := machineFeature{Name: f.Name, OK: f.OK, Needed: strings.HasPrefix(f.Lost, "containers cannot"), Lost: f.Lost}
		if f.Err != nil {
			m.Why = f.Err.Error()
		}
		out = append(out, m)
	}
	return out
}

func checkMachine(c *cli.Context) error {
	features := machineFeatures(c.String("data-dir"))
	s := newScreen(c)
	if c.Bool("json") {
		if err := s.json(features); err != nil {
			return err
		}
	} else {
		s.table(featureTable(features))
	}
	return needsMet(features)
}

// needsMet names what is missing without which no container runs.
func needsMet(features []machineFeature) error {
	var missing []string
	for _, f := range features {
		if f.Needed && !f.OK {
			missing = append(missing, f.Name)
		}
	}
	if len(missing) > 0 {
		return exitf(exitFailed, "no container can run here without: %s", strings.Join(missing, ", "))
	}
	return nil
}

func featureTable(features []machineFeature) *table {
	t := newTable("FEATURE", "HERE", "WITHOUT IT IS LOST")
	for _, f := range features {
		here, lost := cell{"yes", green}, f.Lost
		if !f.OK {
			here = cell{"no", yellow}
			if f.Needed {
				here.style = red
			}
			if f.Why != "" {
				lost += " (" + f.Why + ")"
			}
		}
		t.add(f.Name, here, lost)
	}
	return t
}

// sayWhatIsLost writes a line for each thing that this machine cannot do.
func sayWhatIsLost(log *slog.Logger, dataDir string) {
	for _, f := range machineFeatures(dataDir) {
		switch {
		case f.OK:
		case f.Needed:
			log.Error("this machine lacks what containers need", "feature", f.Name, "lost", f.Lost, "error", cmp.Or(f.Why, "not there"))
		default:
			log.Info("this machine lacks a feature", "feature", f.Name, "lost", f.Lost, "error", cmp.Or(f.Why, "not there"))
		}
	}
}
