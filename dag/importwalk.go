package dag

import (
	"cmp"
	"context"
	"io/fs"
	"slices"
)

// importWalk goes through a tree as an import sees it. Of the directories that it comes back to
// it remembers only what it has yet to visit, so that what it takes does not depend on
// how many directories there are.
type importWalk struct {
	*importer
	ctx     context.Context
	handOut func(job) error // takes over one use of the job's dir.root, but with slot -1
	secrets secretList
	stack   []unvisited
}

// unvisited is what is left to visit of a directory, or of a part of a sharded one. It
// is a user of dir.root.
type unvisited struct {
	dir     *importDir
	rules   ignoring   // that hold in dir
	subdirs []int      // their slots, the next one last
	parts   []nameList // those of dir's listing that are left; then there are no subdirs
}

// walk hands out the entries below top, of whose root it takes over one use.
func (im *importer) walk(ctx context.Context, top *importDir, handOut func(job) error) error {
	name := top.entries[0].Name
	info, err := top.root.Lstat(name)
	if err != nil {
		return top.pathError(name, err)
	}
	w := &importWalk{importer: im, ctx: ctx, handOut: handOut}
	if im.refuseSecrets {
		w.secrets.check(top, name, info.Mode())
	}
	if w.secrets.found() {
		return w.secrets.err()
	}
	if !info.IsDir() {
		return w.handOut(job{top, 0, info})
	}
	w.stack = []unvisited{{dir: top, subdirs: []int{0}}}
	for len(w.stack) > 0 {
		if err := w.next(); err != nil {
			return err
		}
	}
	if w.secrets.found() {
		return w.secrets.err()
	}
	return nil
}

// next visits one directory or part.
func (w *importWalk) next() error {
	u := &w.stack[len(w.stack)-1]
	d, rules := u.dir, u.rules
	var part nameList
	var child *importDir
	if len(u.parts) > 0 {
		slot := hamtFanout - len(u.parts)
		part, u.parts[0] = u.parts[0], nil
		u.parts = u.parts[1:]
		if len(part) > 0 {
			child = d.part(slot)
		}
	} else {
		slot := u.subdirs[len(u.subdirs)-1]
		u.subdirs = u.subdirs[:len(u.subdirs)-1]
		child = d.child(slot)
	}
	// The last one takes over the use of d.root, so that a chain of directories need
	// not be held open.
	last := len(u.parts) == 0 && len(u.subdirs) == 0
	if last {
		w.stack = w.stack[:len(w.stack)-1]
	}
	switch {
	case child == nil && last:
		d.root.release()
	case child == nil:
	default:
		if !last {
			d.root.hold()
		}
		if part != nil {
			return w.visitPart(child, rules, part)
		}
		return w.open(child, rules.in(child.name))
	}
	return nil
}

// open opens the directory d in its parent, of whose root it takes over one use, and
// visits it.
func (w *importWalk) open(d *importDir, above ignoring) (err error) {
	if d.depth > MaxTreeDepth {
		return d.pathError("", ErrTooLarge)
	}
	if d.root, err = openDir(d.parent.root, d.name); err != nil {
		return d.pathError("", err)
	}
	if w.preserve {
		info, err := d.root.Stat(".")
		if err != nil {
			return d.pathError("", err)
		}
		d.meta = metadataOf(info)
	}
	l, rules, err := w.list(w.ctx, d.root.Root, above)
	if err != nil {
		return d.pathError("", err)
	}
	if l.parts == nil {
		return w.visit(d, rules, l.found)
	}
	d.kind = shardedDir
	d.entries = make([]Link, hamtFanout)
	for _, part := range l.parts {
		if len(part) > 0 {
			d.missing.Add(1)
		}
	}
	w.stack = append(w.stack, unvisited{dir: d, rules: rules, parts: l.parts})
	return nil
}

// visitPart visits the entries of one part of a sharded directory.
func (w *importWalk) visitPart(d *importDir, rules ignoring, names nameList) error {
	var found []fs.DirEntry
	for name := range names.all() {
		info, err := d.root.Lstat(name)
		if err != nil {
			// Even if it is only gone: with fewer entries, the directory might be none
			// that is sharded.
			return d.pathError(name, err)
		}
		found = append(found, fs.FileInfoToDirEntry(info))
	}
	return w.visit(d, rules, found)
}

// visit hands out the entries of d that are no directories, and leaves those that are
// for later. It takes over one use of d.root.
func (w *importWalk) visit(d *importDir, rules ignoring, found []fs.DirEntry) error {
	slices.SortFunc(found, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	if w.refuseSecrets {
		for _, e := range found {
			w.secrets.check(d, e.Name(), e.Type())
		}
	}
	d.entries = make([]Link, len(found))
	d.missing.Store(int64(len(found)))
	for i, e := range found {
		d.entries[i].Name = e.Name()
	}
	if len(found) == 0 && !w.secrets.found() {
		if err := w.handOut(job{d, -1, nil}); err != nil {
			return err
		}
	}
	// Directories last, so that a chain of them need not be held open.
	for i, e := range found {
		if e.IsDir() || w.secrets.found() {
			continue // from the first secret on, the walk only looks for others
		}
		info, err := e.Info() // costs nothing: of an os.Root, all are looked up on reading
		if err != nil {
			return d.pathError(e.Name(), err)
		}
		d.root.hold()
		if err := w.handOut(job{d, i, info}); err != nil {
			return err
		}
	}
	var subdirs []int
	for i, e := range slices.Backward(found) {
		if e.IsDir() {
			subdirs = append(subdirs, i)
		}
	}
	if len(subdirs) == 0 {
		d.root.release()
		return nil
	}
	w.stack = append(w.stack, unvisited{dir: d, rules: rules, subdirs: subdirs})
	return nil
}

// child returns the directory that is entry slot of d.
func (d *importDir) child(slot int) *importDir {
	return &importDir{
		place:  place{up: &d.place, name: d.entries[slot].Name, depth: d.depth + 1},
		parent: d,
		slot:   slot,
	}
}

// part returns the part of the sharded directory d that belongs in the given slot.
func (d *importDir) part(slot int) *importDir {
	return &importDir{place: d.place, parent: d, slot: slot, kind: shardOfDir, root: d.root}
}
