//go:build !unix

package dag

import (
	"io/fs"
	"os"
	"time"
)

// setModTime sets the modification time of the entry called name in root, unless that
// is a symlink, which only some systems can do.
func setModTime(root *os.Root, name string, t time.Time) error {
	info, err := root.Lstat(name)
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	return ifSupported(root.Chtimes(name, time.Time{}, t))
}

// private cannot tell here.
func private(fs.FileInfo) bool { return true }
