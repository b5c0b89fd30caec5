package blockstore

import "golang.org/x/sys/unix"

// Uncache implements File.
func (f osFile) Uncache() error { return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }
