package dag

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// staging is the directory beside a destination in which its trees are until they are
// whole, each under its root's CID. It is the owner's alone, and who works in it holds
// the lock of the file "lock" there. Its name follows from the destination's.
//
// What is in it was left by a crash, or put there by who knows whom: an entry is used
// if it is what would have been made and nobody else has a way to it, and else removed.
type staging struct {
	parent *sharedRoot // the directory of the destination
	at     *place      // which is there
	name   string      // of the staging directory in parent
	here   *sharedRoot // the staging directory
	lock   *flock.Flock
}

const lockName = "lock"

// stagingName returns the name of the staging directory for the destination called
// dest. It has a hash, since dest alone may be as long as a name can be.
func stagingName(dest string) string {
	sum := sha256.Sum256([]byte(dest))
	return fmt.Sprintf(".pollux-%x", sum[:8])
}

// openStaging makes or opens, and locks, the staging directory for the destination
// called dest in parent, which is at. It fails with ErrExtracting if that is locked.
func openStaging(ctx context.Context, parent *sharedRoot, at *place, dest string) (*staging, error) {
	s := &staging{parent: parent, at: at, name: stagingName(dest)}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ok, err := s.tryOpen(ctx)
		switch {
		case errors.Is(err, fs.ErrNotExist): // by the one who had the lock before
		case errors.Is(err, ErrExtracting):
			return nil, fmt.Errorf("%q: %w", at.path(dest), err)
		case err != nil:
			return nil, at.pathError(s.name, err)
		case ok:
			return s, nil
		}
	}
}

// tryOpen says whether the directory was there until it was locked.
func (s *staging) tryOpen(ctx context.Context) (bool, error) {
	if err := s.parent.Mkdir(s.name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	info, err := s.parent.Lstat(s.name)
	if err != nil {
		return false, err
	}
	if !info.IsDir() || !private(info) {
		return false, removeAll(ctx, s.parent, s.name)
	}
	if info.Mode().Perm() != 0o700 {
		if err := chmod(s.parent.Root, s.name, 0o700); err != nil {
			return false, err
		}
	}
	s.parent.hold()
	here, err := openDir(s.parent, s.name)
	if errors.Is(err, ErrChanged) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// The lock is opened by its path, so see to it that no symlink is followed.
	if info, err := here.Lstat(lockName); err == nil && !(info.Mode().IsRegular() && private(info)) {
		if err := removeAll(ctx, here, lockName); err != nil {
			return false, err
		}
	}
	lock := flock.New(filepath.Join(s.at.path(s.name), lockName))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		err = ErrExtracting
	}
	if err != nil {
		here.release()
		return false, err
	}
	// Who had the lock may have removed the file before it was locked here, and then
	// this is a lock that keeps nobody out.
	held, err := lock.Stat()
	if err != nil {
		return false, errors.Join(err, lock.Close())
	}
	if there, err := here.Lstat(lockName); err != nil || !os.SameFile(held, there) {
		here.release()
		return false, lock.Close()
	}
	s.here, s.lock = here, lock
	return true, nil
}

// close ends an extraction of the given tree that ended with err, and unlocks. It
// keeps the tree if another run can go on with it, and then makes err say so.
func (s *staging) close(ctx context.Context, tree string, err error) error {
	ctx = context.WithoutCancel(ctx)
	defer s.lock.Close()
	switch {
	case err == nil:
		// The destination is taken now, so nobody will go on with these.
		left, lerr := readDir(ctx, s.here.Root)
		err = lerr
		for _, e := range left {
			if e.Name() != lockName {
				err = errors.Join(err, removeAll(ctx, s.here, e.Name()))
			}
		}
	case isRefusal(err):
		err = errors.Join(err, removeAll(ctx, s.here, tree))
	default:
		if _, lerr := s.here.Lstat(tree); !errors.Is(lerr, fs.ErrNotExist) {
			return &UnfinishedError{Err: err, Kept: s.at.path(s.name)}
		}
	}
	lerr := s.here.Remove(lockName)
	// The directory stays if it has trees of other roots, or somebody works in it by now,
	// who may also have removed it already.
	derr := s.parent.Remove(s.name)
	if errors.Is(derr, fs.ErrExist) || errors.Is(derr, fs.ErrNotExist) {
		derr = nil
	}
	return errors.Join(err, lerr, derr)
}

// removeAll removes the entry called name in root and all below it, directories that
// their owner may not write to included.
func removeAll(ctx context.Context, root *sharedRoot, name string) error {
	err := root.RemoveAll(name)
	if errors.Is(err, fs.ErrPermission) {
		if _, err := unlock(ctx, root, name); err != nil {
			return err
		}
		err = root.RemoveAll(name)
	}
	return err
}

// unlock lets the owner read and write the directories of the tree called name in
// root, if there is one, and returns about how many bytes the tree takes.
func unlock(ctx context.Context, root *sharedRoot, name string) (space int64, err error) {
	type dir struct {
		parent *sharedRoot
		name   string
	}
	var stack []dir
	visit := func(in *sharedRoot, name string) error {
		info, err := in.Lstat(name)
		if err != nil {
			return err
		}
		space = saturate(space, spaceOf(info.Size()))
		if info.IsDir() {
			in.hold()
			stack = append(stack, dir{in, name})
			return makeWritable(in, name, info)
		}
		return nil
	}
	if err := visit(root, name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return 0, err
	}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		here, err := openDir(d.parent, d.name)
		if err != nil {
			return 0, err
		}
		entries, err := readDir(ctx, here.Root)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			if err := visit(here, e.Name()); err != nil {
				return 0, err
			}
		}
		here.release()
	}
	return space, nil
}

// makeWritable lets the owner use the file or directory called name in root.
func makeWritable(root *sharedRoot, name string, info fs.FileInfo) error {
	want := fs.FileMode(0o600)
	if info.IsDir() {
		want = 0o700
	}
	if perm := info.Mode().Perm(); perm&want != want {
		return root.Chmod(name, perm|want)
	}
	return nil
}
