package exchange

import "time"

const (
	// flowTick is how often the flow is looked at, flowTicks over how many of them it is taken,
	// flowMean over how many its mean reaches, and fullPart from which part of that on it
	// counts as full.
	flowTick  = 25 * time.Millisecond
	flowTicks = 8
	flowMean  = 60
	fullPart  = 0.5
)

// flow is what comes from the providers that have brought leaves, all together, of late. As
// long as that is about as much as before, something between them and here is full, mostly the
// line of this node, and what is asked for in addition puts off the rest.
type flow struct {
	ticks [flowTicks]int64 // bytes
	next  int
	sum   int64   // of ticks
	mean  float64 // of a tick
}

// add takes in the bytes of the last tick.
func (w *flow) add(bytes int64) {
	w.sum += bytes - w.ticks[w.next]
	w.ticks[w.next] = bytes
	w.next = (w.next + 1) % flowTicks
	w.mean += (float64(bytes) - w.mean) / flowMean
}

func (w *flow) full() bool { return w.sum > 0 && float64(w.sum) >= fullPart*flowTicks*w.mean }

// tick looks at the flow, and wakes those who may act when it ebbs. The caller holds mu.
func (f *Fetch) tick() {
	var bytes int64
	for s := range f.sessions {
		n := s.received.Load()
		if s.rate() > 0 { // of the others it may be anything
			bytes += max(n-s.ticked, 0)
		}
		s.ticked = n
	}
	full := f.flow.full()
	if f.flow.add(bytes); full && !f.flow.full() {
		f.changed.Broadcast()
	}
}
