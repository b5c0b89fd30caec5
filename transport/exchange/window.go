package exchange

import "time"

const (
	// The window is how many bytes of answers a provider may owe. It follows the
	// bandwidth-delay product of the path, between the last two.
	firstWindow = 128 << 10
	minWindow   = 32 << 10
	maxWindow   = 8 << 20

	// What arrives in a round trip and a quarter, and in queueTime for the other side's
	// scheduling, keeps the path full and its queues short. While the rate still grows,
	// it is startGain round trips. In addition there is an answer that the other side
	// is making meanwhile, which takes it a while. More would only wait in its queues, and
	// what else goes over the line with it.
	steadyGain = 1.25
	startGain  = 2.5
	queueTime  = 20 * time.Millisecond
	// The start is over when the rate did not grow by a quarter in so many rounds.
	flatRounds = 3
	growth     = 1.25
)

// window follows what the path to one provider takes.
type window struct {
	size   int
	path   int        // of it, what is on the path: without an answer that is being made
	gain   float64    // once the rate does not grow any more
	rates  [8]float64 // of late, bytes/s
	next   int        // of rates to be replaced
	steady bool
	best   float64   // when rates grew last
	flat   int       // rounds since
	round  time.Time // when the current one began
}

// rate returns the highest of late, 0 if none is known.
func (w *window) rate() float64 {
	best := 0.0
	for _, r := range w.rates {
		best = max(best, r)
	}
	return best
}

// sample takes in that bytes came between asked and now, among them an answer of the given
// size. full says that as much as the window allows was owed; otherwise more might have
// come.
func (w *window) sample(bytes int64, asked, now time.Time, full bool, rtt time.Duration, answer int) {
	rate := float64(bytes) / max(now.Sub(asked), time.Millisecond).Seconds()
	if !full && rate < w.rate() {
		return
	}
	w.rates[w.next] = rate
	w.next = (w.next + 1) % len(w.rates)
	rate = w.rate()
	if !w.steady && full && !asked.Before(w.round) {
		w.round = now
		if w.flat++; rate >= growth*w.best {
			w.best, w.flat = rate, 0
		}
		w.steady = w.flat >= flatRounds
	}
	gain := w.gain
	if !w.steady {
		gain = startGain
	}
	size := int(min(rate*(gain*rtt.Seconds()+queueTime.Seconds())+float64(answer), maxWindow))
	w.size = max(size, 2*answer, minWindow)
	w.path = int(min(rate*gain*rtt.Seconds(), maxWindow))
}
