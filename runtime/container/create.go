package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"shoal/runtime"
	"shoal/runtime/container/stage"
	"shoal/runtime/image"
	"shoal/runtime/volume"
)

// Create prepares a container. What it makes becomes a container with the last step, the record.
func (r *Runtime) Create(ctx context.Context, s runtime.Spec) (runtime.Info, error) {
	if err := checkSpec(s); err != nil {
		return runtime.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return runtime.Info{}, err
	}
	s.Init = s.Init || s.Lease > 0
	c := newContainer(s.ID, r.containerDir(s.ID), stage.Record{Spec: s, CreatedAt: time.Now().UTC()})
	c.op <- struct{}{} // nobody can do anything with it before it is ready
	r.mu.Lock()
	taken := r.containers[s.ID] != nil
	if !taken {
		r.containers[s.ID] = c
	}
	r.mu.Unlock()
	if taken {
		return runtime.Info{}, conflictf("container %s exists already", s.ID)
	}
	defer c.release()
	r.expectMoves() // most are started at once
	if err := r.create(ctx, c); err != nil {
		c.mu.Lock()
		c.removed = true
		c.tellLocked()
		c.mu.Unlock()
		if cerr := r.wipe(context.WithoutCancel(ctx), s.ID); cerr != nil {
			r.log.Warn("a container half made could not be removed; the next start of the agent tries again", "container", s.ID, "err", cerr)
		}
		r.forget(c)
		return runtime.Info{}, kindOf(fmt.Errorf("create container %s: %w", s.ID, err))
	}
	return c.info(), nil
}

// decide completes the record of a container in the making, which is listed already.
func (c *container) decide(change func(*stage.Record)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.rec)
}

func (r *Runtime) forget(c *container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers[c.id] == c {
		delete(r.containers, c.id)
		delete(r.users, c.id)
	}
}

func (r *Runtime) create(ctx context.Context, c *container) error {
	s := c.rec.Spec
	// What a crashed Remove or Create left under this id would otherwise be taken for ours.
	if _, err := os.Lstat(c.dir); err == nil {
		if err := r.wipe(ctx, s.ID); err != nil {
			return fmt.Errorf("remove what an earlier container of this id left: %w", err)
		}
	}
	img, err := r.cfg.Images.Hold(s.Image, string(s.ID))
	if err != nil {
		return err
	}
	reach("create held")
	c.decide(func(rec *stage.Record) { rec.Image, rec.Config = string(img.Manifest), imageConfig(img.Config) })
	if _, err := stage.Command(s, c.rec.Config); err != nil {
		return err
	}
	if _, err := r.layers(ctx, img); err != nil {
		return err
	}
	if err := makeContainerDir(c.dir); err != nil {
		return err
	}
	if err := noteCgroupParent(c); err != nil {
		return err
	}
	reach("create directory")
	if err := r.makeMountSources(c); err != nil {
		return err
	}
	reach("create sources")
	if r.cfg.Network != nil && s.Network == "" {
		addr, err := r.cfg.Network.Reserve(string(s.ID))
		if err != nil {
			return err
		}
		c.decide(func(rec *stage.Record) { rec.Address = addr })
	}
	reach("create reserved")
	if err := r.writeEtc(c); err != nil {
		return err
	}
	reach("create etc")
	if err := r.fit(c); err != nil {
		return err
	}
	if err := stage.WriteJSON(c.dir, stage.FileRecord, c.rec); err != nil {
		return err
	}
	reach("create recorded")
	return nil
}

func imageConfig(c image.RunConfig) stage.ImageConfig {
	return stage.ImageConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, Volumes: c.Volumes,
		StopSignal: c.StopSignal,
	}
}

func makeContainerDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, mode := range map[string]fs.FileMode{stage.DirUpper: 0o755, stage.DirWork: 0o700, stage.DirRootfs: 0o755, stage.DirLog: 0o700, stage.DirVolumes: 0o700, stage.DirInit: 0o700} {
		if err := os.Mkdir(filepath.Join(dir, name), mode); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil { // the umask must not decide
			return err
		}
	}
	return nil
}

// makeMountSources sees that what is to be mounted exists: bind sources, named volumes, and a directory for each of the
// image's own volumes that the spec does not cover, and for each volume without a name.
func (r *Runtime) makeMountSources(c *container) error {
	for _, m := range c.rec.Spec.Mounts {
		switch m.Type {
		case runtime.MountBind:
			if _, err := volume.Resolve(volume.Bind{Source: m.Source, CreateHostPath: m.CreateHostPath}); err != nil {
				return err
			}
		case runtime.MountVolume:
			if m.Source == "" {
				continue // below
			}
			if r.cfg.Volumes == nil {
				return stage.Invalidf("volume %s: this node has no volumes", m.Source)
			}
			if m.External {
				if _, err := r.cfg.Volumes.Get(m.Source); err != nil {
					return fmt.Errorf("%w; it is external, so it must be on this node already", err)
				}
			} else if _, err := r.cfg.Volumes.Create(m.Source, "", volume.Options{}); err != nil {
				return err
			}
			if _, err := r.cfg.Volumes.Use(m.Source, string(c.id)); err != nil {
				return err
			}
		}
	}
	for i := range anonymousVolumes(c.rec) {
		dir := filepath.Join(c.dir, stage.DirVolumes, fmt.Sprint(i))
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			return err
		}
	}
	return nil
}

// anonymousVolumes are the spec's volumes without a name, and the image's that no mount of the spec covers, sorted. The
// k-th lives in the directory k.
func anonymousVolumes(rec stage.Record) []string {
	covered := map[string]bool{}
	var out []string
	for _, m := range rec.Spec.Mounts {
		covered[path.Clean(m.Target)] = true
		if m.Type == runtime.MountVolume && m.Source == "" {
			out = append(out, path.Clean(m.Target))
		}
	}
	for target := range rec.Config.Volumes {
		if t := path.Clean(target); path.IsAbs(t) && t != "/" && !covered[t] && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}
