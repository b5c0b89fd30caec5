//go:build !linux

package dag

import (
	"io/fs"
	"time"
)

// changeTime falls back to the modification time where reading the change time is
// not worth a file for each system.
func changeTime(info fs.FileInfo) time.Time { return info.ModTime() }

// stampOf has no stamps to give: a file whose modification time was set back would
// look unchanged.
func stampOf(fs.FileInfo) (s stamp, ok bool) { return stamp{}, false }
