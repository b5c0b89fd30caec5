package dag

import (
	"sync"
	"sync/atomic"
	"time"
)

// Progress is how far an Import or Extract has come.
type Progress struct {
	Files int64 // done, without directories and symlinks
	Bytes int64 // of file content, done
	// Totals of both, 0 as long as they are not known.
	TotalFiles int64
	TotalBytes int64
}

// progressInterval is how often at most a progress function is called.
const progressInterval = 100 * time.Millisecond

// meter counts what a Progress reports.
type meter struct {
	files, bytes           atomic.Int64
	totalFiles, totalBytes atomic.Int64
}

func (m *meter) read() Progress {
	return Progress{m.files.Load(), m.bytes.Load(), m.totalFiles.Load(), m.totalBytes.Load()}
}

// finish makes what is done the total.
func (m *meter) finish() {
	m.totalFiles.Store(m.files.Load())
	m.totalBytes.Store(m.bytes.Load())
}

// report calls f with m's state every progressInterval, until stop is called, which
// calls it once more and returns when no call is under way. Calls do not overlap. A
// nil f is never called.
func (m *meter) report(f func(Progress)) (stop func()) {
	if f == nil {
		return func() {}
	}
	var running sync.WaitGroup
	done := make(chan struct{})
	running.Go(func() {
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f(m.read())
			case <-done:
				f(m.read())
				return
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}
