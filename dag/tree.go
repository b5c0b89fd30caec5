package dag

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// openDirs are the directories that a walk over a tree on disk holds open. Trees are
// walked by opening each directory in its parent, never by long paths: that costs
// one system call however deep the tree is, has no limit on the length of a path,
// and cannot be led astray by a directory that is replaced by a symlink. In turn a
// walk has a descriptor open for each directory above it that it will come back to.
type openDirs struct {
	mu   sync.Mutex
	open map[*sharedRoot]struct{}
}

// sharedRoot is an open directory that closes with the last of its users.
type sharedRoot struct {
	*os.Root
	of    *openDirs
	users atomic.Int64
}

// add puts r under d's care, with one user.
func (d *openDirs) add(r *os.Root) *sharedRoot {
	s := &sharedRoot{Root: r, of: d}
	s.users.Store(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = make(map[*sharedRoot]struct{})
	}
	d.open[s] = struct{}{}
	return s
}

// closeAll closes what a walk that failed has left open.
func (d *openDirs) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.open {
		s.Close()
	}
	d.open = nil
}

func (s *sharedRoot) hold() { s.users.Add(1) }

func (s *sharedRoot) release() {
	if s.users.Add(-1) > 0 {
		return
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	delete(s.of.open, s)
	s.Close()
}

// place is a directory of a tree on disk.
type place struct {
	up    *place // nil at the top
	name  string // a path at the top, else a name in up
	depth int    // 0 for the top directory of the tree
}

// path returns the path of the entry called name, or of p itself if name is empty.
// It is put together only when a message needs it.
func (p *place) path(name string) string {
	parts := []string{name}
	for ; p != nil; p = p.up {
		parts = append(parts, p.name)
	}
	slices.Reverse(parts)
	return filepath.Clean(strings.Join(parts, string(filepath.Separator)))
}

// pathError says of which entry of p err is. It takes the names out that package os
// adds, which are relative to somewhere and not quoted.
func (p *place) pathError(name string, err error) error {
	switch e := err.(type) {
	case *fs.PathError:
		err = e.Err
	case *os.LinkError:
		err = e.Err
	}
	return fmt.Errorf("%q: %w", p.path(name), err)
}

// openDir opens the directory called name in parent, which is released, and makes
// sure that it is what was there before, not what a symlink led to.
func openDir(parent *sharedRoot, name string) (*sharedRoot, error) {
	defer parent.release()
	before, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, ErrChanged
	}
	r, err := parent.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	after, err := r.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = ErrChanged
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return parent.of.add(r), nil
}

// readDir returns the entries of the directory r, sorted bytewise by name.
func readDir(ctx context.Context, r *os.Root) ([]fs.DirEntry, error) {
	f, err := r.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var entries []fs.DirEntry
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		some, err := f.ReadDir(4096)
		entries = append(entries, some...)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, nil
}
