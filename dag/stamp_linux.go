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

// stampOf returns the stamp of a regular file. ok is false where the system tells
// too little for one.
func stampOf(info fs.FileInfo) (s stamp, ok bool) {
	st := info.Sys().(*syscall.Stat_t)
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, true
}
