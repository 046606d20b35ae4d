package job

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"slices"
)

// What a running task can take over without being replaced is listed here, and nowhere else. A field of Service that is
// not named in loosen needs a new task when it changes: that is the safe default for a new one. To add a field here:
//   - what only the leader or routing reads (placement, order, drain) needs nothing more;
//   - what the reconciler reads at the time of use (restart policy, health) needs nothing more;
//   - what the container was made with must be in runtime.Tuning too, and both runtimes must apply it;
//   - what can hurt a task that runs well belongs in Wary as well: it is then done a few at a time, and watched.
func (s *Service) loosen() {
	s.Labels = nil
	s.StopSignal, s.StopGrace, s.Drain = "", 0, 0
	s.Health = nil
	s.Restart = Restart{}
	s.Limits, s.Reservations = Resources{}, Resources{}
	s.Constraints, s.Placement = nil, nil
	s.DependsOn = nil
	s.PreStop = nil
}

// Shape tells services apart by all that needs new tasks when it changes. Two contents of the same shape but another
// Digest can take each other's place in a running task.
func (s Service) Shape() Digest {
	c := s.Content()
	c.loosen()
	b, err := json.Marshal(c)
	if err != nil {
		panic("job: a service must always encode: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return Digest(hex.EncodeToString(sum[:16]))
}

// Wary tells whether a change in place from a to b can hurt a task that runs well: other limits, or another health check.
func Wary(a, b *Service) bool {
	return a.Limits != b.Limits || !reflect.DeepEqual(a.Health, b.Health)
}

// SamePlaces tells whether tasks of two contents may be on the same nodes.
func SamePlaces(a, b *Service) bool {
	return a.Mode == b.Mode && slices.Equal(a.Constraints, b.Constraints) && reflect.DeepEqual(a.Placement, b.Placement)
}

// RenewDependents has the services restarted, in the spec that comes after old, that depend with Restart on one whose tasks
// are replaced; directly or by way of others. It changes updated; a service that is replaced anyway is left as it is.
func RenewDependents(old, updated *Spec) {
	replaced := map[string]bool{}
	for i := range updated.Services {
		u := &updated.Services[i]
		if o := old.Service(u.Name); o != nil && o.Shape() != u.Shape() {
			replaced[u.Name] = true
		}
	}
	for range updated.Services { // a chain is at most as long
		any := false
		for i := range updated.Services {
			u := &updated.Services[i]
			if replaced[u.Name] || old.Service(u.Name) == nil {
				continue
			}
			for _, d := range u.DependsOn {
				if d.Restart && replaced[d.Service] {
					u.Renewal++
					replaced[u.Name], any = true, true
					break
				}
			}
		}
		if !any {
			return
		}
	}
}

// FieldsChanged lists what differs between two contents of a service, by path; replicas do not count.
func FieldsChanged(a, b *Service) []FieldChange { return diffFields(flatten(a), flatten(b)) }
