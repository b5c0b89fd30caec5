package node

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	memoryPoll  = 5 * time.Second
	quietAllocs = 16 << 20 // bytes allocated between two polls by a node that idles
	burstAllocs = 16 << 20 // bytes allocated since the last release that make one worthwhile
)

// returnMemory gives memory back to the operating system when a burst of work,
// such as an import, is over. The runtime by itself collects only every two
// minutes once nothing allocates, and then keeps much of what it freed; on the
// small machines that mirrors run on, other programs can use it.
func returnMemory(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	allocated := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	tick := time.NewTicker(memoryPoll)
	defer tick.Stop()
	var released, last uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := allocated()
			if now-last < quietAllocs && now-released > burstAllocs {
				debug.FreeOSMemory()
				released = now
			}
			last = now
		}
	}
}
