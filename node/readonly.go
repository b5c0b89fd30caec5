package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"pollux/blockstore"
)

// probeDir is made and removed again at a start, to see whether that can be done.
const probeDir = "probe"

// errReadOnly reports a repository in which nothing can be changed.
var errReadOnly = errors.New("repository is read-only")

// isReadOnly says whether err is the system's refusal to change anything: the file
// system is mounted read-only or has made itself so after an error, or the user may
// not.
func isReadOnly(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}

// probe returns why nothing can be changed in dir, or nil if it can be. Asking for
// permission does not do: a file system that an error made read-only grants it. Other
// processes may probe at the same time.
func probe(dir string) error {
	path := filepath.Join(dir, probeDir)
	err := os.Remove(path) // left by a process that was killed
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(path, 0o700); err == nil {
			err = os.Remove(path)
		}
	}
	if !isReadOnly(err) {
		return nil
	}
	if bare, ok := errors.AsType[*fs.PathError](err); ok {
		err = bare.Err // the probe's name says nothing to anybody
	}
	return fmt.Errorf("%w: %s: %w; make it writable, then start again", errReadOnly, dir, err)
}

// lockWait is how long another process is waited for that has the repository.
const lockWait = time.Second

// takeLock finds out whether the repository is read-only, and locks it: for this
// process alone, or together with others that only read.
func (n *Node) takeLock() error {
	n.readOnly = probe(n.dir)
	n.lock = flock.New(filepath.Join(n.dir, lockFile), flock.SetPermissions(0o600))
	take := n.lock.TryLock
	if n.readOnly != nil {
		take = n.lock.TryRLock
	}
	// A command that is just at its end has the lock for some milliseconds.
	var locked bool
	var err error
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if locked, err = take(); locked || err != nil || time.Since(start) > lockWait {
			break
		}
	}
	switch {
	case n.readOnly != nil && errors.Is(err, syscall.EROFS):
		return nil // there is no lock, and nobody who could change anything
	case err != nil:
		return fmt.Errorf("lock %s: %w", n.dir, err)
	case !locked:
		return fmt.Errorf("repository %s is %w; stop that one first, or choose another with --repo", n.dir, ErrInUse)
	}
	return nil
}

// ReadOnly returns why nothing can be added or fetched now, or nil if it can be. A
// repository that was read-only when the node was opened stays so, since others may
// read it too; a store recovers by itself.
func (n *Node) ReadOnly() error {
	if n.readOnly != nil {
		return n.readOnly
	}
	return n.store.ReadOnly()
}

// readOnlyFS is a directory in which nothing may be changed, even if it could be.
type readOnlyFS struct {
	blockstore.FS
	cause error
}

func (d readOnlyFS) Open(name string) (blockstore.File, error) {
	f, err := d.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return readOnlyFile{f, d.cause}, nil
}

func (d readOnlyFS) Create(string) (blockstore.File, error) { return nil, d.cause }
func (d readOnlyFS) Rename(string, string) error            { return d.cause }
func (d readOnlyFS) Remove(string) error                    { return d.cause }

type readOnlyFile struct {
	blockstore.File
	cause error
}

func (f readOnlyFile) WriteAt([]byte, int64) (int, error) { return 0, f.cause }

func (f readOnlyFile) Truncate(size int64) error {
	if now, err := f.Size(); err != nil || now == size {
		return err
	}
	return f.cause
}
