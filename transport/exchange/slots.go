package exchange

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// uploads is how many peers are sent whole DAGs at a time. Others are told to ask
	// elsewhere, and where.
	uploads = 48
	// uploadIdle is after how long a slot is free for others if its peer asks nothing.
	uploadIdle = 10 * time.Second
	// turnTime is for how long a peer keeps its slot, if it asks, though others wait. With it
	// 192 that ask as well have had theirs within a minute, before they may give up.
	turnTime = 15 * time.Second
	// busyPause is what those that get none are asked to wait.
	busyPause = 5 * time.Second
	// waitIdle is after how long one of those that did not come back loses its place in the
	// queue: fetchers do within 40 seconds, and the time to connect. maxWaiting is how many
	// have a place.
	waitIdle   = time.Minute
	maxWaiting = serveLimit
)

// slots says who is sent whole DAGs. While others wait, peers take turns: whoever has kept a
// slot longest makes room for whoever has waited longest, or a few that ask all the time would
// keep all. Its methods may be called from many goroutines.
type slots struct {
	mu      sync.Mutex
	taken   map[peer.ID]turn // at most uploads, the free ones included
	waiting []waiter         // in the order in which they were turned away
}

// turn is that of a peer which has a slot.
type turn struct {
	began, asked time.Time
	gone         bool // no stream of the peer is left
}

// free says whether anybody may take the slot.
func (t turn) free(now time.Time) bool { return t.gone || now.Sub(t.asked) > uploadIdle }

// waiter is a peer that was turned away.
type waiter struct {
	peer  peer.ID
	asked time.Time
}

func newSlots() *slots { return &slots{taken: make(map[peer.ID]turn)} }

// ask says whether p, which asks now, may be sent a DAG.
func (s *slots) ask(p peer.ID, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.taken[p]; ok && !t.free(now) {
		t.asked = now
		s.taken[p] = t
		return true
	}
	s.waiting = slices.DeleteFunc(s.waiting, func(w waiter) bool { return now.Sub(w.asked) > waitIdle })
	at, patient := s.queue(p, now)
	from, room := s.room(p, now)
	old := s.taken[from]
	next := turn{began: now, asked: now}
	switch {
	case at < room && patient:
		s.waiting = slices.Delete(s.waiting, at, at+1)
		if from != "" && !old.free(now) {
			s.queue(from, now)
		}
	case from != "" && old.free(now):
		// It is others' turn, but they may not come back. If a new turn began here, peers could
		// keep the slot by leaving and coming back, or handing it to each other.
		next.began = old.began
	default:
		return false
	}
	delete(s.taken, from)
	s.taken[p] = next
	return true
}

// queue returns the place of p in the queue, where it goes to the end if it has none, and
// whether it has waited as long as it was asked to. The caller holds mu.
func (s *slots) queue(p peer.ID, now time.Time) (at int, patient bool) {
	at = slices.IndexFunc(s.waiting, func(w waiter) bool { return w.peer == p })
	if at < 0 {
		if at = len(s.waiting); at < maxWaiting {
			s.waiting = append(s.waiting, waiter{p, now})
		}
		return at, true
	}
	if w := &s.waiting[at]; now.Sub(w.asked) >= busyPause {
		w.asked = now
		return at, true
	}
	return at, false
}

// room returns whose slot p is to take, nobody's if there is one that was never taken, and
// how many could be. The caller holds mu.
func (s *slots) room(p peer.ID, now time.Time) (from peer.ID, n int) {
	n = uploads - len(s.taken)
	unused := n > 0
	for q, t := range s.taken {
		if !t.free(now) && now.Sub(t.began) <= turnTime {
			continue
		}
		n++
		o := s.taken[from]
		if from == "" || cmp.Or(compareBool(o.free(now), t.free(now)), t.began.Compare(o.began)) < 0 {
			from = q // a free one, or else the one that was kept longest
		}
	}
	if _, ok := s.taken[p]; ok {
		return p, n
	}
	if unused {
		return "", n
	}
	return from, n
}

// leave says that no stream of p is left.
func (s *slots) leave(p peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.taken[p]; ok {
		t.gone = true
		s.taken[p] = t
	}
}
