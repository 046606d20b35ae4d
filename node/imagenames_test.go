package node

import (
	"testing"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime/image"
)

func TestTooManyNamesOfImagesNeverReachTheLog(t *testing.T) {
	r := api.ImageNamesRequest{Images: make([]job.ImageName, image.MaxArchiveNames+1)}
	if err := new(Node).NameImages(t.Context(), r); job.KindOf(err) != job.Invalid {
		t.Errorf("%d names at a time: %v", len(r.Images), err)
	}
}
