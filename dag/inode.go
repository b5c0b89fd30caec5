package dag

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// chmod sets the permission bits of the file or directory called name in root, which
// is no symlink. A directory keeps the setgid bit that the one above it gave it. A file
// system without modes is left as it is.
func chmod(root *os.Root, name string, perm fs.FileMode) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if info.Mode().Perm() == perm {
		return nil
	}
	if info.IsDir() {
		perm |= info.Mode() & fs.ModeSetgid
	}
	return ifSupported(root.Chmod(name, perm))
}

// ifSupported drops the error of a file system that cannot keep a mode or a time. Of
// what this process made itself, that is what EPERM means too.
func ifSupported(err error) error {
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EPERM) {
		return nil
	}
	return err
}

// umask returns which permission bits new entries of root do not get. The system tells
// only by clearing it for the whole process, so a file is made.
func umask(root *os.Root) (fs.FileMode, error) {
	const probe = "umask"
	if err := root.RemoveAll(probe); err != nil {
		return 0, err
	}
	f, err := root.OpenFile(probe, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o777)
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Close(), root.Remove(probe)); err != nil {
		return 0, err
	}
	return 0o777 &^ info.Mode().Perm(), nil
}
