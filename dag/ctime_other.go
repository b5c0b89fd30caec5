//go:build !linux

package dag

import (
	"io/fs"
	"time"
)

// changeTime falls back to the modification time where reading the change time is
// not worth a file for each system.
func changeTime(info fs.FileInfo) time.Time { return info.ModTime() }
