package dag

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// ErrUnsafeName reports an entry whose name could lead out of its directory, or
// that its directory has twice.
var ErrUnsafeName = errors.New("unsafe name")

// ExtractOptions says how to extract.
type ExtractOptions struct {
	// Progress, if set, is called about ten times a second and at the end, never
	// twice at once. It has totals only at the end.
	Progress func(Progress)
}

// ExtractResult is what an extraction wrote.
type ExtractResult struct {
	Files    int
	Dirs     int // the top one included
	Symlinks int
	Bytes    int64 // of file content
}

// Extract writes the tree below root to dest, which must not exist, unless both are
// directories and dest is empty. The tree appears there at once when it is whole: it
// is written under a temporary name beside dest, which an Extract that fails removes.
//
// The whole tree is refused with ErrUnsafeName if an entry is called "", "." or "..",
// if its name has a slash or NUL, or if its directory has another of that name.
// Symlinks are written as they are, wherever they point, and never written through.
// Files get mode 0644 and directories 0755, less the umask. Errors name the entry,
// quoted. Nothing is synced.
func Extract(ctx context.Context, get Getter, root cid.Cid, dest string, opts ExtractOptions) (ExtractResult, error) {
	res, err := runExtract(ctx, get, root, dest, opts)
	if err != nil {
		return ExtractResult{}, fmt.Errorf("extract %s: %w", root, err)
	}
	return res, nil
}

// extractor is one run of Extract. One goroutine makes directories and symlinks;
// files are written several at once.
type extractor struct {
	get  Getter
	open openDirs

	meter    meter
	dirs     int
	symlinks int
}

// extractDir is a directory that was made and has to be filled.
type extractDir struct {
	place
	parent *sharedRoot
	name   string // in parent
	cid    cid.Cid
}

func runExtract(ctx context.Context, get Getter, root cid.Cid, dest string, opts ExtractOptions) (res ExtractResult, err error) {
	top, err := Stat(ctx, get, root)
	if err != nil {
		return res, err
	}
	dest, err = filepath.Abs(dest)
	if err != nil {
		return res, err
	}
	if err := checkDest(dest, top.Kind); err != nil {
		return res, err
	}
	at := place{name: filepath.Dir(dest), depth: -1}
	parent, err := os.OpenRoot(at.name)
	if err != nil {
		return res, at.pathError("", err)
	}
	x := &extractor{get: get}
	defer x.open.closeAll()
	beside := x.open.add(parent)
	temporary := fmt.Sprintf(".pollux-%016x", rand.Uint64())
	defer func() {
		if err != nil {
			err = errors.Join(err, parent.RemoveAll(temporary))
		}
	}()

	stopReport := x.meter.report(opts.Progress)
	top.Name = filepath.Base(dest)
	err = x.run(ctx, beside, &at, temporary, top)
	if err == nil {
		x.meter.finish()
	}
	stopReport()
	if err != nil {
		return res, err
	}
	if err := checkDest(dest, top.Kind); err != nil {
		return res, err
	}
	// Not os.Rename, which never replaces a directory: the system call replaces one
	// that is empty, and no other.
	if err := syscall.Rename(filepath.Join(at.name, temporary), dest); err != nil {
		return res, fmt.Errorf("%q: %w", dest, err)
	}
	return ExtractResult{
		Files:    int(x.meter.files.Load()),
		Dirs:     x.dirs,
		Symlinks: x.symlinks,
		Bytes:    x.meter.bytes.Load(),
	}, nil
}

// checkDest fails unless dest is free, or an empty directory for a directory.
func checkDest(dest string, kind Kind) error {
	info, err := os.Lstat(dest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if kind == KindDirectory && info.IsDir() {
		f, err := os.Open(dest)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err = f.Readdirnames(1); err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%q: %w", dest, fs.ErrExist)
}

// run writes e, the whole tree, as the entry called name in root, which is at.
func (x *extractor) run(ctx context.Context, root *sharedRoot, at *place, name string, e Entry) error {
	g, ctx := errgroup.WithContext(ctx)
	// Writing many small files waits for the file system more than it computes.
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	g.Go(func() error { return x.walk(ctx, g, root, at, name, e) })
	return g.Wait()
}

// walk makes directories and symlinks, and has g write the files.
func (x *extractor) walk(ctx context.Context, g *errgroup.Group, root *sharedRoot, at *place, name string, e Entry) error {
	d, err := x.make(ctx, g, root, at, name, e)
	if err != nil {
		return err
	}
	var stack []*extractDir
	if d != nil {
		stack = append(stack, d)
	}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if d.depth > MaxTreeDepth {
			return d.pathError("", ErrTooLarge)
		}
		here, err := openDir(d.parent, d.name)
		if err != nil {
			return d.pathError("", err)
		}
		for e, err := range List(ctx, x.get, d.cid) {
			if err != nil {
				return fmt.Errorf("%q: %w", d.path(""), err)
			}
			if err := checkName(e.Name); err != nil {
				return fmt.Errorf("%q in %q: %w", e.Name, d.path(""), err)
			}
			below, err := x.make(ctx, g, here, &d.place, e.Name, e)
			if err != nil {
				return err
			}
			if below != nil {
				stack = append(stack, below)
			}
		}
		here.release()
	}
	return nil
}

// make makes the entry called name in root, which is at. A directory it returns for
// filling.
func (x *extractor) make(ctx context.Context, g *errgroup.Group, root *sharedRoot, at *place, name string, e Entry) (*extractDir, error) {
	root.hold()
	switch e.Kind {
	case KindDirectory:
		if err := root.Mkdir(name, 0o755); err != nil {
			return nil, makeError(at, e.Name, err)
		}
		x.dirs++
		return &extractDir{
			place:  place{up: at, name: e.Name, depth: at.depth + 1},
			parent: root,
			name:   name,
			cid:    e.CID,
		}, nil
	case KindSymlink:
		defer root.release()
		if err := root.Symlink(e.Target, name); err != nil {
			return nil, makeError(at, e.Name, err)
		}
		x.symlinks++
		return nil, nil
	}
	g.Go(func() error {
		defer root.release()
		return x.writeFile(ctx, root, at, name, e)
	})
	return nil, nil
}

// writeFile makes the file called name in root, which is at, with the content of e.
func (x *extractor) writeFile(ctx context.Context, root *sharedRoot, at *place, name string, e Entry) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return makeError(at, e.Name, err)
	}
	err = WriteFile(ctx, x.get, e.CID, meteredWriter{f, &x.meter.bytes})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%q: %w", at.path(e.Name), err)
	}
	x.meter.files.Add(1)
	return nil
}

type meteredWriter struct {
	w     io.Writer
	bytes *atomic.Int64
}

func (m meteredWriter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.bytes.Add(int64(n))
	return n, err
}

func checkName(name string) error {
	if name == "." || strings.ContainsAny(name, "/\x00") || !filepath.IsLocal(name) {
		return ErrUnsafeName
	}
	return nil
}

// makeError says why the entry called name could not be made. Everything is made
// where nothing was, so what exists is an entry of the same name, or of one that is
// the same to a file system that does not tell cases apart.
func makeError(at *place, name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%q in %q: %w: there twice", name, at.path(""), ErrUnsafeName)
	}
	return at.pathError(name, err)
}
