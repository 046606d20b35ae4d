package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"shoal/consensus/job"
	"shoal/node/api"
)

// fleet has a node that answers, one that does not, and one that is down.
func fleet() *cluster {
	cl := newCluster()
	for i, state := range []job.NodeState{job.NodeReady, job.NodeReady, job.NodeDown} {
		cl.nodes = append(cl.nodes, api.NodeView{Node: job.Node{ID: job.NodeID(fmt.Sprintf("n%d", i+1)), Name: string(rune('a' + i)), State: state}})
	}
	return cl
}

func TestPartOfAnAnswerIsNotTakenForTheWhole(t *testing.T) {
	socket := fleet().serve(t)
	for line, want := range map[string]string{"system df": "images", "image prune --all-nodes": "7 blobs", "image verify --all-nodes": "7 blobs"} {
		code, out, errs := shoal(t, socket, line)
		if code != exitUnavailable || !strings.Contains(out, want) || !strings.Contains(errs, "node b: n2 does not answer") ||
			!strings.Contains(errs, "node c is down and was not asked") || strings.Contains(errs, "n3") {
			t.Errorf("%s: code %d, %q, %q", line, code, out, errs)
		}
		code, out, _ = shoal(t, socket, line+" --json")
		var answers []struct{ Node, Error string }
		if err := json.Unmarshal([]byte(out), &answers); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(answers); code != exitUnavailable || got != "[{a } {b n2 does not answer} {c it is down and was not asked}]" {
			t.Errorf("%s --json: code %d, %s", line, code, got)
		}
	}
	if code, _, errs := shoal(t, socket, "image prune --node a --all-nodes"); code != exitUsage || !strings.Contains(errs, "--all-nodes") {
		t.Errorf("two wishes: code %d, %q", code, errs)
	}
	_, out, _ := shoal(t, socket, "chaos status --json")
	var nodes []struct{ Node, Policy, Error string }
	if err := json.Unmarshal([]byte(out), &nodes); err != nil || fmt.Sprint(nodes) != "[{n1 allow } {n2  n2 does not answer} {n3  n3 does not answer}]" {
		t.Errorf("%v, %v", nodes, err)
	}
}

func TestNodesThatAreNotUpAreNoFailure(t *testing.T) {
	cl := fleet()
	cl.nodes = append(cl.nodes[:1], cl.nodes[2])
	if code, _, errs := shoal(t, cl.serve(t), "system df"); code != 0 || !strings.Contains(errs, "node c is down") {
		t.Errorf("code %d, %q", code, errs)
	}
}
