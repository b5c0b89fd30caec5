//go:build unix

package dag

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setModTime sets the modification time of the entry called name in root, of a symlink
// itself too, and the access time to now. A time that the system cannot express is left
// out.
func setModTime(root *os.Root, name string, t time.Time) error {
	// Not os.Root.Chtimes, which follows symlinks and takes no time after 2262.
	mtime, err := unix.TimeToTimespec(t)
	if err != nil {
		return nil
	}
	now, err := unix.TimeToTimespec(time.Now())
	if err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return ifSupported(unix.UtimesNanoAt(int(dir.Fd()), name, []unix.Timespec{now, mtime}, unix.AT_SYMLINK_NOFOLLOW))
}

// private says whether an entry belongs to the user of this process and, unless it is a
// directory, has no other name.
func private(info fs.FileInfo) bool {
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid) == os.Geteuid() && (info.IsDir() || st.Nlink == 1)
}
