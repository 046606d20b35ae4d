package node

import (
	"errors"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// A client that tries a submit again, whose job somebody removed meanwhile, is told so: nothing is wrong with shoal.
func TestASecondAnswerForARemovedJobIsAConflict(t *testing.T) {
	s := state.New()
	at := time.Unix(1, 0)
	index := uint64(0)
	apply := func(c state.Command) state.Result {
		raw, err := state.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		index++
		return s.Apply(index, raw)
	}
	submit := state.PutJob{Spec: job.Spec{Name: "j", Services: []job.Service{{Name: "s", Image: "i"}}}, Key: "k", At: at}
	if _, err := submitResult(apply(submit), nil); err != nil {
		t.Fatal(err)
	}
	if r := apply(state.RemoveJob{Job: "j", At: at}); r.Err != nil {
		t.Fatal(r.Err)
	}
	r := apply(submit)
	if _, err := submitResult(r, r.Err); !errors.Is(err, job.Conflict) {
		t.Errorf("the second answer: %v", err)
	}
}
