package chaos

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/e2e/machines"
)

// What a fault's own check finds broken is a violation of that fault; in a run that is broken off it proves nothing, for it was
// not asked again.
func TestAPromiseThatIsNotKept(t *testing.T) {
	for name, tc := range map[string]struct {
		off   bool // before it is asked
		acted error
		want  []string // promises
		void  int
	}{
		"kept":                    {false, nil, nil, 0},
		"not kept":                {false, notKept{"it ends", "it goes on"}, []string{"it ends"}, 0},
		"did not act":             {false, errors.New("no call was spoilt"), nil, 1},
		"not kept and broken off": {true, notKept{"it ends", "it goes on"}, nil, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := &run{
				Options: Options{Out: io.Discard, Patience: 1},
				w:       &World{Net: &machines.Net{}, busy: map[*machines.Machine]string{}},
				load:    &load{acks: []time.Time{time.Now().Add(time.Hour)}},
			}
			r.check = newChecker(r.w, r.load, account{}, "", r.violated)
			r.check.after = "the step before"
			asked := false
			f := &Fault{Name: "f", Play: func(context.Context, *World, *rand.Rand) (*Broken, error) {
				return &Broken{
					What: "w", End: func(context.Context) error { return nil },
					Acted: func() error {
						if asked = true; tc.off {
							cancel()
						}
						return tc.acted
					},
				}, nil
			}}
			if err := r.step(ctx, step{faults: []play{{Fault: f}}}); (err != nil) != tc.off {
				t.Errorf("%s: the step ends with %v", name, err)
			}
			var got []string
			for _, v := range r.report.Violated {
				if strings.HasPrefix(v.Promise, "everything asked for runs again") {
					continue // nothing runs here
				}
				got = append(got, v.Promise)
				if !strings.HasPrefix(v.After, "f: w") {
					t.Errorf("%s: it is told as of %q", name, v.After)
				}
			}
			if !asked || !slices.Equal(got, tc.want) || len(r.report.Void) != tc.void {
				t.Errorf("%s: violated is %q, void %q", name, got, r.report.Void)
			}
		})
	}
}
