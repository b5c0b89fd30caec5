package exchange

import (
	"errors"
	"testing"
	"time"
)

// TestUselessGoes ends sessions that bring nothing, but only while another candidate waits
// for a place.
func TestUselessGoes(t *testing.T) {
	for _, tt := range []struct {
		name    string
		crowded bool
		do      func(s *session)
		goes    bool
	}{
		{name: "owes, and nobody waits", do: func(s *session) { s.want(nil) }},
		{name: "owes", crowded: true, do: func(s *session) { s.want(nil) }, goes: true},
		{name: "owes nothing of what is missing", crowded: true, do: func(s *session) { s.all = false }, goes: true},
		{name: "did not open", crowded: true, do: func(s *session) { s.opened, s.opening = false, 1 }, goes: true},
		{name: "a few bytes come", crowded: true, do: func(s *session) { s.want(nil); s.received.Add(minBytes - 1) }, goes: true},
		{name: "bytes come", crowded: true, do: func(s *session) { s.want(nil); s.received.Add(minBytes) }},
		{name: "a block came", crowded: true, do: func(s *session) { s.want(nil); s.fetch.came(s) }},
		{name: "the workers are busy", crowded: true, do: func(s *session) { s.want(nil); s.handing = true }},
		{name: "brought leaves", crowded: true, do: func(s *session) {
			s.window.rates[0] = 1
			s.useful = time.Now().Add(-2 * (stallAfter + stallAfter))
		}},
		{name: "brought leaves, long ago", crowded: true, do: func(s *session) { s.window.rates[0] = 1 }, goes: true},
		{name: "there is no work", crowded: true, do: func(s *session) { s.fetch.pool.queue = nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, list := idleFetch(t, 1, 1)
			s := list[0]
			s.stream, f.crowded = noStream{}, tt.crowded
			s.useful = time.Now().Add(-time.Minute)
			tt.do(s)
			s.check(time.Now())
			if got := errors.Is(s.err, errUseless); got != tt.goes {
				t.Errorf("ended: %v, %v; want %v", got, s.err, tt.goes)
			}
		})
	}
}

// TestSlowSources has one source of nodes after the other send nothing: each is given less
// time than the one before, and all that are left are used again in the end.
func TestSlowSources(t *testing.T) {
	f, list := idleFetch(t, 0, 6)
	x := &f.index
	x.waiting = true
	f.order.complete = false
	var spent time.Duration
	for i, s := range list {
		if _, ok := x.lists(f, s); !ok || x.source != s {
			t.Fatalf("source %d is not asked", i)
		}
		limit := x.patience(stallAfter, s)
		if x.check(f, x.heard.Add(limit)); x.source != s {
			t.Fatalf("source %d was given up early", i)
		}
		spent += limit
		x.check(f, x.heard.Add(limit+1))
		if last := i == len(list)-1; (x.source == s) != last {
			t.Fatalf("source %d: is asked %v, is the last %v", i, x.source == s, last)
		}
	}
	if spent > 3*stallAfter {
		t.Errorf("%d sources took %v", len(list), spent)
	}
}

// TestNodeNowAndThen gives up a source that sends fewer nodes than it should.
func TestNodeNowAndThen(t *testing.T) {
	f, list := idleFetch(t, 0, 2)
	x := &f.index
	x.waiting = true
	f.order.complete = false
	s := list[0]
	x.lists(f, s)
	for n, slow := range map[int]bool{minList: false, minList - 1: true} {
		now := x.looked.Add(slowTime + 1)
		x.all += n
		x.heard = now
		if x.check(f, now); (x.source == nil) != slow {
			t.Errorf("%d nodes: given up %v", n, x.source == nil)
		}
		x.source, x.failed = s, 0
	}
}

// TestFailedTask has a peer stall: what it owed goes to one that has brought something,
// and to one that has not only if there is no other.
func TestFailedTask(t *testing.T) {
	_, s := idleFetch(t, 1, 3)
	s[0].want(nil)
	s[0].lastByte = time.Now().Add(-time.Minute)
	s[0].check(time.Now())
	s[2].window.rates[0] = 1e6
	if len(s[1].want(nil)) > 0 {
		t.Error("another that brought nothing is asked")
	}
	s[1].rtt, s[1].waiting = time.Millisecond, true // nearer, but nobody waits for it
	if len(s[2].want(nil)) == 0 {
		t.Error("one that brought something is not asked")
	}
	_, s = idleFetch(t, 1, 2)
	s[0].want(nil)
	s[0].lastByte = time.Now().Add(-time.Minute)
	s[0].check(time.Now())
	if len(s[1].want(nil)) == 0 {
		t.Error("there is no other, and it is not asked")
	}
}
