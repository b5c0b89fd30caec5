package dag

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

var (
	// ErrUnsafeName reports an entry whose name could lead out of its directory, or
	// that its directory has twice.
	ErrUnsafeName = errors.New("unsafe name")
	// ErrNoSpace reports a tree for which the file system has no room.
	ErrNoSpace = errors.New("not enough free space")
	// ErrExtracting reports that another Extract to the same destination is at work.
	ErrExtracting = errors.New("another extraction to the same place is under way")
)

// UnfinishedError is the error of an Extract that kept what it had written: the next
// one of the same root to the same destination goes on from there.
type UnfinishedError struct {
	Err  error
	Kept string // absolute path of the directory to remove if nobody is to go on
}

func (e *UnfinishedError) Error() string { return e.Err.Error() }
func (e *UnfinishedError) Unwrap() error { return e.Err }

// ExtractOptions says how to extract.
type ExtractOptions struct {
	// Progress, if set, is called about ten times a second and at the end, never
	// twice at once. It has totals once the tree's directories have been read.
	Progress func(Progress)
}

// ExtractResult is what a tree that was extracted has.
type ExtractResult struct {
	Files    int
	Dirs     int // the top one included
	Symlinks int
	Bytes    int64 // of file content
}

// Extract writes the tree below root to dest, which must not exist, unless both are
// directories and dest is empty. The tree appears there at once when it is whole; until
// then it is in a directory beside dest whose name starts with ".pollux-". One Extract
// to a dest runs at a time; a second one fails with ErrExtracting.
//
// One that fails for what can pass (ctx, a block that cannot be had, a full disk), or is
// killed, leaves what it has written, and in the first case says where by an
// UnfinishedError. The next one takes of that what is right, so that a file that was
// whole is read and not written. Nothing there is trusted: contents are compared with
// the blocks, everything else is replaced or removed, and no symlink is followed. What
// other roots left for the same dest is removed when there is a tree at dest.
//
// Everything that is left is removed if the tree is refused for what it is:
//
//   - with ErrUnsafeName if an entry is called "", "." or "..", if its name has a slash
//     or NUL, or if its directory has another of that name;
//   - with ErrTooLarge if it has more than MaxEntries entries, each counted in every
//     place where it occurs, or directories more than MaxTreeDepth deep;
//   - with ErrMalformed, ErrCodec and others that nodes are refused with.
//
// A few blocks can stand for exabytes, so all directories are read before anything is
// written, each distinct one once, and a tree that would not fit into the free space of
// dest's file system fails with ErrNoSpace. Each entry counts as at least 4 KiB.
//
// Symlinks are written as they are, wherever they point, and never written through.
// Modes and modification times are restored where nodes have them, as far as the file
// system has them too; of a mode only the permission bits, since a stranger has no say
// in setuid, setgid and sticky. Others get mode 0644, directories 0755, less the umask.
// Errors name the entry, quoted.
//
// Nothing is synced: as after cp, tar or rsync, a power cut in the next half minute may
// cost some of the tree. A sync for each of many files takes longer than all the rest,
// and the blocks that the tree can be made of again are durable in the store.
func Extract(ctx context.Context, get Getter, root cid.Cid, dest string, opts ExtractOptions) (ExtractResult, error) {
	res, err := runExtract(ctx, get, root, dest, opts)
	if err != nil {
		return ExtractResult{}, fmt.Errorf("extract %s: %w", root, err)
	}
	return res, nil
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
	top.Name = filepath.Base(dest)
	at := &place{name: filepath.Dir(dest), depth: -1}
	parent, err := os.OpenRoot(at.name)
	if err != nil {
		return res, at.pathError("", err)
	}
	x := &extractor{get: get}
	defer x.open.closeAll()
	s, err := openStaging(ctx, x.open.add(parent), at, top.Name)
	if err != nil {
		return res, err
	}
	tree := root.String()
	defer func() { err = s.close(ctx, tree, err) }()

	stopReport := x.meter.report(opts.Progress)
	err = x.run(ctx, s, tree, top)
	stopReport()
	if err != nil {
		return res, err
	}
	if err := checkDest(dest, top.Kind); err != nil {
		return res, err
	}
	// Not os.Rename, which never replaces a directory: the system call replaces one
	// that is empty, and no other.
	if err := syscall.Rename(filepath.Join(at.path(s.name), tree), dest); err != nil {
		return res, fmt.Errorf("%q: %w", dest, err)
	}
	if top.Kind == KindDirectory && top.Mode != 0 {
		// A directory that its owner may not write to could not have been moved.
		if err := chmod(parent, top.Name, top.Mode); err != nil {
			return res, at.pathError(top.Name, err)
		}
	}
	return ExtractResult{
		Files:    int(x.meter.files.Load()),
		Dirs:     x.dirs,
		Symlinks: x.symlinks,
		Bytes:    x.meter.bytes.Load(),
	}, nil
}

// run makes top, the whole tree, under the name tree in s.
func (x *extractor) run(ctx context.Context, s *staging, tree string, top Entry) error {
	sum, err := survey(ctx, x.get, s.at, top)
	if err != nil {
		return err
	}
	if err := x.reserve(ctx, s, tree, sum.space); err != nil {
		return err
	}
	x.meter.totalFiles.Store(sum.files)
	x.meter.totalBytes.Store(sum.bytes)
	if x.umask, err = umask(s.here.Root); err != nil {
		return s.at.pathError(s.name, err)
	}
	if err := x.write(ctx, s, tree, top); err != nil {
		return err
	}
	x.meter.finish()
	return nil
}

// reserve fails unless there is room for need bytes, in which what an earlier run left
// of the tree counts as room.
func (x *extractor) reserve(ctx context.Context, s *staging, tree string, need int64) error {
	x.room.Store(math.MaxInt64)
	dir, err := blockstore.Dir(s.at.path(s.name))
	if err != nil {
		return err
	}
	free, err := dir.Free()
	if err != nil {
		return fmt.Errorf("free space: %w", err)
	}
	if free <= 0 {
		return nil // as some network file systems say; one that is full will tell
	}
	if free < need {
		// Only now, since it reads every directory there.
		there, err := unlock(ctx, s.here, tree)
		if err != nil {
			return s.at.pathError(s.name, err)
		}
		if free = saturate(free, there); free < need {
			return fmt.Errorf("%w: %s are needed, %s can be had", ErrNoSpace, humanize.Bytes(uint64(need)), humanize.Bytes(uint64(free)))
		}
	}
	x.room.Store(free - need)
	return nil
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

// refusals are what an Extract fails with for what the tree is, or what is at its
// destination, and will fail with again. What is in doubt is not among them: work that
// is kept for nothing costs less than work that is lost.
var refusals = []error{
	ErrUnsafeName, ErrMalformed, ErrTooLarge, ErrCodec, ErrNotFile, errUnverifiable, fs.ErrExist,
	// Names and symlink targets that the file system does not take.
	syscall.ENAMETOOLONG, syscall.EINVAL, syscall.EILSEQ,
}

func isRefusal(err error) bool {
	return slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) })
}
