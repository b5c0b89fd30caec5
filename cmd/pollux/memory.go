package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// heapTarget is what Go's memory is to stay below where what is in use allows. The
	// program itself, some 30 MB, comes on top.
	heapTarget = 88 << 20
	// heapRoom, and an eighth of what is in use, is how much garbage there may be
	// beyond the target.
	heapRoom = 12 << 20
	heapPoll = time.Second
)

// keepHeapSmall bounds the memory of this process until ctx ends. By itself Go lets as
// much garbage gather as there is in use, which of a folder of a million files is some
// 100 MB: most of that are large pieces without pointers, which cost the collector
// nothing to keep, so it can as well run more often. The limit rises with what is in use,
// so that a process that needs more is not collecting all the time. One that the user
// set (GOMEMLIMIT) stays.
func keepHeapSmall(ctx context.Context) {
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(heapPoll)
	defer tick.Stop()
	for {
		metrics.Read(sample)
		live := int64(sample[0].Value.Uint64())
		debug.SetMemoryLimit(max(heapTarget, live+live/8+heapRoom))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
