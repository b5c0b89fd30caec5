package exchange

import "time"

const (
	// flowTick is how often the flow is looked at, flowTicks over how many of them it is taken,
	// and flowMean over how many its mean reaches.
	flowTick  = 25 * time.Millisecond
	flowTicks = 10
	flowMean  = 60
	// The flow counts as full from fullPart of its mean on, unless without the provider that
	// could be asked for more it is less than restPart.
	fullPart = 0.5
	restPart = 0.3
	// leastFlow is how many bytes in flowTicks ticks say something: what comes now and then
	// fills no line.
	leastFlow = 32 << 10
)

// flow is what comes, of late, from a provider that has brought leaves, or from all of them.
type flow struct {
	ticks [flowTicks]int64 // bytes
	next  int
	sum   int64   // of ticks
	mean  float64 // of flowTicks
}

// add takes in the bytes of the last tick.
func (w *flow) add(bytes int64) {
	w.sum += bytes - w.ticks[w.next]
	w.ticks[w.next] = bytes
	w.next = (w.next + 1) % flowTicks
	w.mean += (flowTicks*float64(bytes) - w.mean) / flowMean
}

// tick looks at the flow, and wakes those who may act when it ebbs. The caller holds mu.
func (f *Fetch) tick() {
	var all int64
	for s := range f.sessions {
		n := s.received.Load()
		bytes := max(n-s.ticked, 0)
		if s.ticked = n; s.rate() == 0 {
			bytes = 0 // it may be anything
		}
		s.flow.add(bytes)
		all += bytes
	}
	full := f.full(nil)
	if f.flow.add(all); full && !f.full(nil) {
		f.changed.Broadcast()
	}
}

// full says whether as much comes as before: then something between the providers and here is
// full, mostly the line of this node, and whatever s, which may be nil, were asked for in
// addition would put off the rest. The caller holds mu.
func (f *Fetch) full(s *session) bool {
	others := f.flow.sum
	if s != nil {
		others -= s.flow.sum
	}
	return f.flow.sum >= leastFlow && float64(f.flow.sum) >= fullPart*f.flow.mean && float64(others) >= restPart*f.flow.mean
}
