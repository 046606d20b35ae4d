package state

import (
	"shoal/consensus/job"
)

func (t *tx) putImage(c PutImage) Result {
	for _, i := range c.Images {
		if i.Name == "" || i.Digest == "" || len(i.Name)+len(i.Digest) > MaxMessage {
			return fail(job.Invalid, "name image %.80q: it takes a name and a digest of together at most %d bytes", i.Name, MaxMessage)
		}
	}
	unchanged := true
	for _, i := range c.Images {
		if was := t.base.Image(i.Name); was != nil && was.Digest == i.Digest {
			continue
		}
		unchanged = false
		t.insert(TableImages, &i)
	}
	t.forgetOldImages()
	return Result{Unchanged: unchanged}
}

// forgetOldImages keeps the table bounded. Only a cluster with very many names pays for the walk.
func (t *tx) forgetOldImages() {
	for {
		names := all[job.ImageName](t.w, TableImages, "id", nil)
		if len(names) <= KeepImages {
			return
		}
		oldest := names[0]
		for _, i := range names[1:] {
			if i.At.Before(oldest.At) {
				oldest = i
			}
		}
		t.remove(TableImages, oldest)
	}
}

func (t *tx) removeImage(c RemoveImage) Result {
	was := t.base.Image(c.Name)
	if was == nil {
		return Result{Unchanged: true}
	}
	t.remove(TableImages, was)
	return Result{}
}
