package dag

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime returns when a file's content or inode last changed.
func changeTime(info fs.FileInfo) time.Time {
	st := info.Sys().(*syscall.Stat_t)
	return time.Unix(int64(st.Ctim.Sec), int64(st.Ctim.Nsec))
}
