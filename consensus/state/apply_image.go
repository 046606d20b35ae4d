package state

import (
	"slices"

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
	for _, i := range tooOld(all[job.ImageName](t.w, TableImages, "id", nil), KeepImages) {
		t.remove(TableImages, i)
	}
}

// tooOld picks those of names, sorted by name, that are to go so that keep are left: the oldest, of equally old ones the
// first by name. It sorts names.
func tooOld(names []*job.ImageName, keep int) []*job.ImageName {
	if len(names) <= keep {
		return nil
	}
	slices.SortStableFunc(names, func(a, b *job.ImageName) int { return a.At.Compare(b.At) })
	return names[:len(names)-keep]
}

func (t *tx) removeImage(c RemoveImage) Result {
	was := t.base.Image(c.Name)
	if was == nil {
		return Result{Unchanged: true}
	}
	t.remove(TableImages, was)
	return Result{}
}
