package exchange

import (
	"slices"
	"testing"
	"time"
)

// TestFullLine has sessions idle while others owe something: as long as the line is full, they
// are not asked for it too.
func TestFullLine(t *testing.T) {
	for _, stalled := range []bool{false, true} {
		f, s := idleFetch(t, 1, 3)
		slow, idle, busy := s[0], s[1], s[2]
		slow.want(nil)
		slow.owed[0].asked = time.Now().Add(-time.Minute)
		if slow.stalled = stalled; stalled {
			f.pool.putLast(slow.owed[0].task)
		}
		busy.window.rates[0] = 1e6
		bring := func(ticks int, bytes int64) {
			for range ticks {
				busy.received.Add(bytes)
				slow.received.Add(1e6) // it has brought no leaves, and so does not count
				f.tick()
			}
		}
		bring(100, 25_000)
		if len(idle.want(nil)) != 0 {
			t.Errorf("stalled %v: asked for twice though the line is full", stalled)
		}
		bring(flowTicks, 5_000)
		if len(idle.want(nil)) == 0 {
			t.Errorf("stalled %v: not asked for though the line is not full", stalled)
		}
	}
}

// TestSlowComesLast has a session that went quiet while others have something to do: what it
// owes is not taken before that.
func TestSlowComesLast(t *testing.T) {
	f, s := idleFetch(t, 100, 1)
	s[0].want(nil)
	var owed []*task
	for _, d := range s[0].owed {
		owed = append(owed, d.task)
	}
	if len(owed) == 0 || len(f.pool.queue) == 0 {
		t.Fatalf("%d tasks are owed, and %d not", len(owed), len(f.pool.queue))
	}
	s[0].check(time.Now().Add(time.Minute / 6))
	if n := len(f.pool.queue) - len(owed); n < 0 || !slices.Equal(f.pool.queue[n:], owed) {
		t.Errorf("of %d tasks that a session owes which went quiet, not all are the last", len(owed))
	}
}

// TestTwiceIsLimited has a session idle while another owes all that is missing, and brings it
// far slower: one segment is asked for twice, and then as many as a hundredth of what came.
func TestTwiceIsLimited(t *testing.T) {
	f, s := idleFetch(t, 20, 2)
	slow, idle := s[0], s[1]
	slow.window = window{size: 1 << 30, rates: [8]float64{1e3}}
	idle.window = window{size: 1 << 30, rates: [8]float64{1e9}}
	slow.want(nil)
	if len(slow.owed) != 20 {
		t.Fatalf("%d tasks are owed", len(slow.owed))
	}
	idle.want(nil)
	if n := len(idle.owed); n != 1 {
		t.Errorf("%d tasks were asked for twice when nothing had come", n)
	}
	const more = 3
	f.tally.received.Add(int64(stealPart * (more + 1) * slow.owed[0].cost))
	idle.want(nil)
	if n := len(idle.owed); n < more || n > more+2 {
		t.Errorf("%d tasks were asked for twice when a hundredth is %d", n, more+1)
	}
}
