package dag

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// extractor is one run of Extract. One goroutine makes directories and symlinks;
// files are written several at once.
type extractor struct {
	get   Getter
	open  openDirs
	umask fs.FileMode
	room  atomic.Int64 // bytes that may still be written beyond what was claimed

	meter    meter
	dirs     int
	symlinks int
}

// targetDir is a directory that is being filled. Its users are the goroutine that fills
// it, the files in it that are being written and the directories in it that have yet to
// be opened. After the last it gets its mode and time, which no entry that is made in
// it can change any more, and which keep nobody from opening one.
type targetDir struct {
	*sharedRoot // with one user, the targetDir
	place
	entry Entry
	left  map[string]struct{} // names of what an earlier run left, which were not come to yet
	perm  fs.FileMode         // what mode to give it; 0 is that which it has
	users atomic.Int64
}

func (d *targetDir) hold() { d.users.Add(1) }

func (d *targetDir) release() error {
	if d.users.Add(-1) > 0 {
		return nil
	}
	defer d.sharedRoot.release()
	if t := d.entry.ModTime; !t.IsZero() {
		if err := setModTime(d.Root, ".", t); err != nil {
			return d.pathError("", err)
		}
	}
	if d.perm != 0 {
		if err := chmod(d.Root, ".", d.perm); err != nil {
			return d.pathError("", err)
		}
	}
	return nil
}

// pendingDir is a directory that was made and has to be filled.
type pendingDir struct {
	in    *targetDir // held
	name  string     // there
	entry Entry
	old   bool // an earlier run made it
}

// write makes e, the whole tree, under the given name in s.
func (x *extractor) write(ctx context.Context, s *staging, name string, e Entry) error {
	s.here.hold()
	top := &targetDir{sharedRoot: s.here, place: *s.at, left: map[string]struct{}{name: {}}}
	top.hold()
	g, ctx := errgroup.WithContext(ctx)
	// Writing many small files waits for the file system more than it computes.
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	g.Go(func() error { return x.walk(ctx, g, top, name, e) })
	return g.Wait()
}

// walk makes directories and symlinks, and has g write the files.
func (x *extractor) walk(ctx context.Context, g *errgroup.Group, top *targetDir, name string, e Entry) error {
	var stack []*pendingDir
	add := func(d *targetDir, name string, e Entry) error {
		below, err := x.make(ctx, g, d, name, e)
		if below != nil {
			stack = append(stack, below)
		}
		return err
	}
	if err := add(top, name, e); err != nil {
		return err
	}
	for len(stack) > 0 {
		next := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		d, err := x.enter(ctx, next)
		if err != nil {
			return err
		}
		for e, err := range List(ctx, x.get, next.entry.CID) {
			if err != nil {
				return fmt.Errorf("%q: %w", d.path(""), err)
			}
			if err := checkEntry(e); err != nil {
				return fmt.Errorf("%q in %q: %w", e.Name, d.path(""), err)
			}
			if err := add(d, e.Name, e); err != nil {
				return err
			}
		}
		for name := range d.left {
			if err := removeAll(ctx, d.sharedRoot, name); err != nil {
				return d.pathError(name, err)
			}
		}
		if err := d.release(); err != nil {
			return err
		}
	}
	return top.release()
}

// enter opens a directory to fill it.
func (x *extractor) enter(ctx context.Context, p *pendingDir) (*targetDir, error) {
	d := &targetDir{
		place: place{up: &p.in.place, name: p.entry.Name, depth: p.in.depth + 1},
		entry: p.entry,
		perm:  p.entry.Mode,
	}
	d.hold()
	p.in.sharedRoot.hold()
	here, err := openDir(p.in.sharedRoot, p.name)
	if err != nil {
		return nil, d.pathError("", err)
	}
	d.sharedRoot = here
	if d.depth == 0 && d.perm != 0 {
		d.perm |= 0o700 // it has to be moved yet
	}
	if p.old {
		if d.perm == 0 {
			d.perm = 0o755 &^ x.umask
		}
		entries, err := readDir(ctx, here.Root)
		if err != nil {
			return nil, d.pathError("", err)
		}
		d.left = make(map[string]struct{}, len(entries))
		for _, e := range entries {
			d.left[e.Name()] = struct{}{}
		}
	}
	return d, p.in.release()
}

// take returns what an earlier run left under name if it can be made into e, and else
// removes it and returns nil.
func (d *targetDir) take(ctx context.Context, name string, e Entry) (fs.FileInfo, error) {
	if _, ok := d.left[name]; !ok {
		return nil, nil
	}
	delete(d.left, name)
	info, err := d.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fits := false
	switch e.Kind {
	case KindFile:
		fits = info.Mode().IsRegular()
	case KindDirectory:
		fits = info.IsDir()
	case KindSymlink:
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := d.Readlink(name)
			fits = err == nil && target == e.Target
		}
	}
	if !fits || !private(info) {
		return nil, removeAll(ctx, d.sharedRoot, name)
	}
	if e.Kind == KindSymlink {
		return info, nil
	}
	return info, makeWritable(d.sharedRoot, name, info)
}

// make makes the entry called name in d, which may be other than e's own name at the
// top of the tree. A directory it returns for filling.
func (x *extractor) make(ctx context.Context, g *errgroup.Group, d *targetDir, name string, e Entry) (*pendingDir, error) {
	old, err := d.take(ctx, name, e)
	if err != nil {
		return nil, d.pathError(e.Name, err)
	}
	switch e.Kind {
	case KindDirectory:
		if old == nil {
			if err := d.Mkdir(name, 0o755); err != nil {
				return nil, makeError(d, e.Name, err)
			}
		}
		x.dirs++
		d.hold()
		return &pendingDir{in: d, name: name, entry: e, old: old != nil}, nil
	case KindSymlink:
		if old == nil {
			if err := d.Symlink(e.Target, name); err != nil {
				return nil, makeError(d, e.Name, err)
			}
		}
		x.symlinks++
		if !e.ModTime.IsZero() {
			if err := setModTime(d.Root, name, e.ModTime); err != nil {
				return nil, d.pathError(e.Name, err)
			}
		}
		return nil, nil
	}
	d.hold()
	g.Go(func() error {
		if err := x.writeFile(ctx, d, name, e, old); err != nil {
			return err
		}
		return d.release()
	})
	return nil, nil
}

// writeFile makes the file called name in d, with the content of e. old is what an
// earlier run left of it, or nil.
func (x *extractor) writeFile(ctx context.Context, d *targetDir, name string, e Entry, old fs.FileInfo) error {
	flag := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if old != nil {
		flag = os.O_RDWR | syscall.O_NONBLOCK // as in openFile
	}
	f, err := d.OpenFile(name, flag, 0o644)
	if err != nil {
		return makeError(d, e.Name, err)
	}
	if old == nil {
		err = WriteFile(ctx, x.get, e.CID, &fileSink{x: x, w: f, claimed: e.Size})
	} else {
		err = x.patchFile(ctx, f, e, old)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%q: %w", d.path(e.Name), err)
	}
	perm := e.Mode
	if perm == 0 && old != nil {
		perm = 0o644 &^ x.umask
	}
	if perm != 0 {
		if err := chmod(d.Root, name, perm); err != nil {
			return d.pathError(e.Name, err)
		}
	}
	if !e.ModTime.IsZero() {
		if err := setModTime(d.Root, name, e.ModTime); err != nil {
			return d.pathError(e.Name, err)
		}
	}
	x.meter.files.Add(1)
	return nil
}

// patchFile makes f, which was old, have the content of e.
func (x *extractor) patchFile(ctx context.Context, f *os.File, e Entry, old fs.FileInfo) error {
	if info, err := f.Stat(); err != nil {
		return err
	} else if !os.SameFile(old, info) {
		return ErrChanged
	}
	p := &patchWriter{f: f}
	if err := WriteFile(ctx, x.get, e.CID, &fileSink{x: x, w: p, claimed: e.Size}); err != nil {
		return err
	}
	if old.Size() > p.off {
		return f.Truncate(p.off)
	}
	return nil
}

// patchWriter writes to a file from its start, but not what it has already.
type patchWriter struct {
	f   *os.File
	off int64
	buf []byte
}

func (w *patchWriter) Write(p []byte) (n int, err error) {
	if len(p) > len(w.buf) {
		w.buf = make([]byte, len(p))
	}
	// What cannot be read differs: writing may mend it, or tells why not.
	n, _ = w.f.ReadAt(w.buf[:len(p)], w.off)
	if !bytes.Equal(w.buf[:n], p) {
		n, err = w.f.WriteAt(p, w.off)
	}
	w.off += int64(n)
	return n, err
}

// fileSink counts what is written to a file. That may be more than was claimed if a
// directory lies about a file of one raw block.
type fileSink struct {
	x       *extractor
	w       io.Writer
	claimed int64 // bytes that were claimed and are not written yet
}

func (s *fileSink) Write(p []byte) (int, error) {
	s.claimed -= int64(len(p))
	if s.claimed < 0 {
		if s.x.room.Add(s.claimed) < 0 {
			return 0, fmt.Errorf("%w: files are larger than their directories say", ErrNoSpace)
		}
		s.claimed = 0
	}
	n, err := s.w.Write(p)
	s.x.meter.bytes.Add(int64(n))
	return n, err
}

// makeError says why the entry called name could not be made. Everything is made
// where nothing was, so what exists is an entry of the same name, or of one that is
// the same to a file system that does not tell cases apart.
func makeError(d *targetDir, name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%q in %q: %w: there twice", name, d.path(""), ErrUnsafeName)
	}
	return d.pathError(name, err)
}
