package dag

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"pollux/blockstore"
)

// BlockWriter takes blocks from one goroutine.
type BlockWriter interface {
	// Write stores a block, at the latest with the next Flush. added says that the
	// store did not hold it before. The block is valid until Write returns: its bytes
	// are overwritten then.
	Write(blockstore.Block) (added bool, err error)
	Flush() error
}

// ImportStore is what Import writes to. Of files that its cache knows it asks whether
// their blocks are held, and reads the nodes among them.
type ImportStore[W BlockWriter] interface {
	Getter
	Has(cid.Cid) (bool, error)
	// NewWriter returns a writer for one more goroutine.
	NewWriter() W
	// Sync makes durable what was flushed.
	Sync() error
}

// ImportOptions says how to import.
type ImportOptions struct {
	// Hidden takes in entries whose name starts with a dot, which are left out
	// otherwise, whatever they are. The path given to Import is always taken in.
	Hidden bool
	// AllowSecrets takes in what looks secret, which fails the import otherwise.
	AllowSecrets bool
	// Preserve stores permissions and modification times (UnixFS 1.5), which are left
	// out otherwise. The root then depends on them too.
	Preserve bool
	// Chunker says how files are cut. With another than the zero value the root is
	// not that of the profile.
	Chunker Chunker
	// Cache is ImportResult.Cache of an earlier import, whose files are not read
	// again unless they changed. It is of use to an import with the same Preserve and
	// Chunker. nil reads all.
	Cache *FileCache
	// Workers is how many files are read and hashed at once. 0 is GOMAXPROCS.
	Workers int
	// Progress, if set, is called about ten times a second and at the end, never
	// twice at once. Its totals are counted by a second walk over the tree.
	Progress func(Progress)

	start time.Time // now, but for tests
}

// ImportResult is what an import made.
type ImportResult struct {
	Root     cid.Cid
	Files    int
	Dirs     int // the top one included
	Symlinks int
	Cached   int        // of Files, those that were not read because ImportOptions.Cache had them
	Blocks   int        // written, those included that the store held or that occur twice
	Bytes    int64      // of file content
	NewBytes int64      // of blocks that the store did not hold before
	Cache    *FileCache // of the files in the tree, for the next import
}

// Import stores the file or directory at path as blocks, with the profile
// unixfs-v1-2025 unless opts say otherwise, and returns its root: the CID that "ipfs
// add -r" gives it under that profile. It returns a root only when everything below it
// is durable.
//
// If path itself is a symlink, what it leads to is imported. Every other symlink is
// stored as a symlink and never followed; nothing outside the tree is read. Names
// are kept as they are, byte for byte; empty directories are kept. What an IgnoreFile
// in the tree matches is left out, and so is that file.
//
// What looks secret, such as a private key, .env or .git, fails the import with
// ErrSecret, a named pipe, socket or device with ErrSpecialFile, a file that changes
// while it is read with ErrChanged, and a tree deeper than MaxTreeDepth with
// ErrTooLarge. Errors name the path, quoted. Blocks that were written before an import
// failed stay in the store, with no root above them.
//
// Memory is bounded by a chunk a worker (with FastCDC, 6 MiB), what writers buffer, the
// two caches, and what directories take on the way from the top to the one at hand: some
// 120 bytes for each entry of one, but where it is to be sharded, only the name of each
// entry that is not yet visited, and for one in 256 the 120 bytes.
func Import[W BlockWriter](ctx context.Context, store ImportStore[W], path string, opts ImportOptions) (ImportResult, error) {
	newWriter := func() BlockWriter { return store.NewWriter() }
	res, err := runImport(ctx, unixfsV1, store, newWriter, path, opts)
	if err != nil {
		return ImportResult{}, fmt.Errorf("import: %w", err)
	}
	if err := store.Sync(); err != nil {
		return ImportResult{}, fmt.Errorf("import: %w", err)
	}
	return res, nil
}

// importer is one run of Import. One goroutine walks the tree and hands out its
// entries; workers turn them into blocks. Whoever finishes the last entry of a
// directory builds the directory's node, and so on up to the root.
type importer struct {
	profile
	hidden        bool
	refuseSecrets bool
	preserve      bool
	store         heldBlocks
	seen          *cacheBuilder
	open          openDirs
	jobs          chan job
	chunks        chan chunk
	done          chan struct{} // closed when root is known
	root          cid.Cid

	meter    meter
	dirs     atomic.Int64
	symlinks atomic.Int64
	cached   atomic.Int64
	blocks   atomic.Int64
	newBytes atomic.Int64
}

// heldBlocks is the part of an ImportStore that is there before the import.
type heldBlocks interface {
	Getter
	Has(cid.Cid) (bool, error)
}

// importDir is a directory that is not yet a block, or a part of one; see listing.
type importDir struct {
	place
	parent  *importDir // nil for the one that holds the path given to Import
	slot    int        // its place in parent.entries
	kind    dirKind
	root    *sharedRoot
	meta    metadata     // once it is open
	entries []Link       // sorted by name; without CID and Size until they are blocks
	missing atomic.Int64 // how many are not
}

type dirKind int

const (
	wholeDir   dirKind = iota
	shardedDir         // its entries are the slots of the top shard; there is nothing in some
	shardOfDir         // its parent is a shardedDir
)

// job is an entry that is no directory, or, with slot -1, an empty directory.
type job struct {
	dir  *importDir
	slot int
	info fs.FileInfo // of the entry, when the directory was read; nil with slot -1
}

func runImport(ctx context.Context, p profile, store heldBlocks, newWriter func() BlockWriter, path string, opts ImportOptions) (ImportResult, error) {
	workers := opts.Workers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	start := opts.start
	if start.IsZero() {
		start = time.Now()
	}
	im := &importer{
		profile:       p.with(opts.Chunker),
		hidden:        opts.Hidden,
		refuseSecrets: !opts.AllowSecrets,
		preserve:      opts.Preserve,
		store:         store,
		jobs:          make(chan job, 64), // each may hold a directory open
		chunks:        make(chan chunk, workers),
		done:          make(chan struct{}),
	}
	im.seen = newCacheBuilder(start, im.layout(), opts.Cache)
	defer im.open.closeAll()
	top, err := im.openTop(path)
	if err != nil {
		return ImportResult{}, err
	}

	stopReport := im.meter.report(opts.Progress)
	var counting sync.WaitGroup
	countCtx, stopCount := context.WithCancel(ctx)
	if opts.Progress != nil {
		top.root.hold()
		counted := &importDir{place: top.place, root: top.root, entries: slices.Clone(top.entries)}
		counting.Go(func() { im.count(countCtx, counted) })
	}

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return im.walk(gctx, top, func(j job) error {
			select {
			case im.jobs <- j:
				return nil
			case <-gctx.Done():
				return gctx.Err()
			}
		})
	})
	for range workers {
		w := &importWorker{importer: im, ctx: gctx, out: newWriter()}
		g.Go(w.run)
	}
	err = g.Wait()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // not what followed from it, such as a read of a file just closed
	}

	stopCount()
	counting.Wait()
	if err == nil {
		im.meter.finish()
	}
	stopReport()
	if err != nil {
		return ImportResult{}, err
	}
	return ImportResult{
		Root:     im.root,
		Files:    int(im.meter.files.Load()),
		Dirs:     int(im.dirs.Load()),
		Symlinks: int(im.symlinks.Load()),
		Cached:   int(im.cached.Load()),
		Blocks:   int(im.blocks.Load()),
		Bytes:    im.meter.bytes.Load(),
		NewBytes: im.newBytes.Load(),
		Cache:    im.seen.build(),
	}, nil
}

// openTop opens the directory that holds the path, with the path as its only entry.
func (im *importer) openTop(path string) (*importDir, error) {
	path, err := resolvePath(path)
	if err != nil {
		return nil, err
	}
	at := place{name: filepath.Dir(path), depth: -1}
	root, err := os.OpenRoot(at.name)
	if err != nil {
		return nil, at.pathError("", err)
	}
	top := &importDir{place: at, root: im.open.add(root), entries: []Link{{Name: filepath.Base(path)}}}
	top.missing.Store(1)
	return top, nil
}

// resolvePath returns path absolute and without symlinks.
func resolvePath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		at := place{name: path}
		return "", at.pathError("", err)
	}
	return abs, nil
}

// importWorker turns entries into blocks.
type importWorker struct {
	*importer
	ctx     context.Context
	out     BlockWriter
	buf     []byte            // of the chunk in hand: a new one for each would cost as much as hashing it
	fastCDC *chunkers.Chunker // of the file that it cuts; nil before the first
}

func (w *importWorker) run() error {
	for {
		var err error
		select {
		case <-w.ctx.Done():
			return w.ctx.Err()
		case <-w.done:
			return w.out.Flush()
		case j := <-w.jobs:
			err = w.do(j)
		case c := <-w.chunks:
			err = w.putChunk(c)
		}
		if err != nil {
			return err
		}
	}
}

func (w *importWorker) put(b blockstore.Block) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	added, err := w.out.Write(b)
	if err != nil {
		return err
	}
	w.blocks.Add(1)
	if added {
		w.newBytes.Add(int64(len(b.Data())))
	}
	return nil
}

func (w *importWorker) do(j job) error {
	if j.slot < 0 {
		return w.finish(j.dir)
	}
	l, err := w.putEntry(j.dir, j.dir.entries[j.slot].Name, j.info)
	if err != nil {
		return err
	}
	return w.fill(j.dir, j.slot, l)
}

// putEntry stores the file or symlink called name in d, which is as listed says or has
// changed since.
func (w *importWorker) putEntry(d *importDir, name string, listed fs.FileInfo) (Link, error) {
	defer d.root.release()
	doubtful := w.refuseSecrets && suspect(d.name, name, false) == doubtful
	// Doubtful files are always read: the import that the cache is from may have been
	// told to take in secrets.
	if listed.Mode().IsRegular() && !doubtful {
		l, ok, err := w.recall(listed)
		if err != nil {
			return Link{}, d.pathError(name, err)
		}
		if ok {
			return l, nil
		}
	}
	info, err := d.root.Lstat(name)
	if err != nil {
		return Link{}, d.pathError(name, err)
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return w.putFile(d, name, info, doubtful)
	case mode&fs.ModeSymlink != 0:
		target, err := d.root.Readlink(name)
		if err != nil {
			return Link{}, d.pathError(name, err)
		}
		w.symlinks.Add(1)
		return putSymlink(target, w.metadata(info), w.put)
	case mode.IsDir():
		return Link{}, d.pathError(name, ErrChanged)
	default:
		return Link{}, d.pathError(name, specialFileError(mode))
	}
}

// fill enters l as entry slot of d, and finishes d if it was the last.
func (w *importWorker) fill(d *importDir, slot int, l Link) error {
	d.entries[slot].CID, d.entries[slot].Size = l.CID, l.Size
	if d.missing.Add(-1) > 0 {
		return nil
	}
	return w.finish(d)
}

// finish builds the node of d, all of whose entries are there, and of the
// directories above that are complete with it.
func (w *importWorker) finish(d *importDir) error {
	for d.parent != nil {
		l, err := w.putDir(d)
		if err != nil {
			return fmt.Errorf("%q: %w", d.path(""), err)
		}
		d.entries = nil
		up := d.parent
		up.entries[d.slot] = l
		if up.missing.Add(-1) > 0 {
			return nil
		}
		d = up
	}
	w.root = d.entries[0].CID
	close(w.done)
	return nil
}

// putDir writes the node of d, or the nodes of its part of a directory, and returns
// the link to be entered in d.parent.
func (w *importWorker) putDir(d *importDir) (l Link, err error) {
	if d.kind != shardOfDir {
		w.dirs.Add(1)
	}
	switch d.kind {
	case shardedDir:
		l, err = putShard((*[hamtFanout]Link)(d.entries), d.meta, w.put)
	case shardOfDir:
		return buildSlot(hashLinks(d.entries), 0, w.put)
	default:
		l, err = w.putDirectory(d.entries, d.meta, w.put)
	}
	l.Name = d.name
	return l, err
}
