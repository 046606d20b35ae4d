package reconciler

import (
	"reflect"
	"testing"

	"shoal/consensus/job"
)

func TestAContainerLearnsWhichResourcesAreItsOwn(t *testing.T) {
	a := Assignment{Task: job.Task{Generic: []job.Generic{{Kind: "gpu", IDs: []string{"u1", "u2"}}, {Kind: "ssd-iops", Count: 3}}}}
	want := []string{"SHOAL_RESOURCE_GPU=u1,u2", "DOCKER_RESOURCE_GPU=u1,u2", "SHOAL_RESOURCE_SSD_IOPS=3", "DOCKER_RESOURCE_SSD_IOPS=3"}
	if got := Spec(a, "n1", nil, nil, nil).Env; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
