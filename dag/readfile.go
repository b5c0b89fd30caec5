package dag

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

var (
	// ErrChanged reports a file or directory that did not stay as it was while
	// it was read.
	ErrChanged = errors.New("changed while it was read")
	// ErrSpecialFile reports a named pipe, a socket or a device.
	ErrSpecialFile = errors.New("only files, directories and symlinks can be added")
)

// sourceFile is an open regular file, read by position by several goroutines.
type sourceFile struct {
	*os.File
	info fs.FileInfo // at the time of opening
	dir  *place      // where it is
	name string
}

func (f *sourceFile) pathError(err error) error { return f.dir.pathError(f.name, err) }

// openFile opens the regular file called name in root, which is at. before is what
// Lstat said of it: should something else be there by now, openFile fails.
func openFile(root *os.Root, at *place, name string, before fs.FileInfo) (*sourceFile, error) {
	// O_NONBLOCK: opening a named pipe that took the file's place must not wait
	// for a writer. Regular files do not mind it.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !(info.Mode().IsRegular() && sameState(before, info)) {
		err = ErrChanged
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &sourceFile{File: f, info: info, dir: at, name: name}, nil
}

// readAt fills data from the bytes at off.
func (f *sourceFile) readAt(data []byte, off int64) error {
	n, err := f.ReadAt(data, off)
	switch {
	case n == len(data):
		return nil
	case err == io.EOF:
		return ErrChanged
	default:
		return err
	}
}

// checkUnchanged is called after the last read, and says whether all reads saw one
// state of the file: it still ends where it ended, and carries the same stamps.
func (f *sourceFile) checkUnchanged() error {
	var more [1]byte
	n, err := f.ReadAt(more[:], f.info.Size())
	if n > 0 {
		return ErrChanged
	}
	if err != io.EOF {
		return err
	}
	info, err := f.Stat()
	if err == nil && !sameState(f.info, info) {
		err = ErrChanged
	}
	return err
}

// sameState says whether a and b describe the same file with the same content, as
// far as stamps can tell. The change time tells more than the modification time,
// which programs may set back.
func sameState(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() &&
		a.ModTime().Equal(b.ModTime()) && changeTime(a).Equal(changeTime(b))
}

// specialFileError says what kind of thing it is that cannot be added.
func specialFileError(mode fs.FileMode) error {
	kind := "not a regular file"
	switch {
	case mode&fs.ModeNamedPipe != 0:
		kind = "a named pipe"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	case mode&fs.ModeDevice != 0:
		kind = "a device"
	}
	return fmt.Errorf("is %s: %w", kind, ErrSpecialFile)
}
