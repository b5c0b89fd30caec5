package exchange

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// TestTurns has as many peers as there are slots ask all the time. One more gets a slot after a
// turn, that of the peer which has had its own longest, and of no other.
func TestTurns(t *testing.T) {
	s, now := newSlots(), time.Now()
	peers := make([]peer.ID, uploads)
	ask := func(p peer.ID, want bool) {
		t.Helper()
		if got := s.ask(p, now); got != want {
			t.Fatalf("peer %q got a slot: %v", p, got)
		}
	}
	for i := range peers {
		peers[i] = peer.ID(fmt.Sprint(i))
		ask(peers[i], true)
		now = now.Add(time.Millisecond)
	}
	for range 100 { // while nobody waits
		now = now.Add(uploadIdle)
		for _, p := range peers {
			ask(p, true)
		}
	}
	s = newSlots()
	for _, p := range peers {
		ask(p, true)
		now = now.Add(time.Millisecond)
	}
	all := now
	for ; now.Before(all.Add(turnTime - time.Second)); now = now.Add(busyPause) {
		ask("new", false)
		for _, p := range peers {
			ask(p, true)
		}
	}
	now = all.Add(turnTime)
	ask("new", true)
	for range 10 {
		ask(peers[0], false) // though the turns of all others are over
		for _, p := range peers[1:] {
			ask(p, true)
		}
		ask("new", true)
	}
	now = now.Add(busyPause)
	ask(peers[0], true)
	ask(peers[1], false)
	for _, p := range peers[2:] {
		ask(p, true)
	}
	ask("new", true)
}

// TestFreeSlots lets peers leave, or ask nothing. Others get their slots at once, but for a
// turn only if nobody waits for one longer.
func TestFreeSlots(t *testing.T) {
	for name, free := range map[string]func(s *slots, p peer.ID){
		"gone": (*slots).leave,
		"idle": func(s *slots, p peer.ID) {
			turn := s.taken[p]
			turn.asked = turn.asked.Add(-uploadIdle - turnTime)
			s.taken[p] = turn
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, now := newSlots(), time.Now()
			for i := range uploads {
				s.ask(peer.ID(fmt.Sprint(i)), now)
			}
			for range 2 {
				now = now.Add(turnTime/2 - time.Second)
				for i := range uploads {
					s.ask(peer.ID(fmt.Sprint(i)), now)
				}
			}
			if s.ask("first", now) || s.ask("second", now) {
				t.Fatal("a slot that is not free is taken before a turn is over")
			}
			free(s, "7")
			if !s.ask("second", now) {
				t.Fatal("a free slot is not given to who asks")
			}
			if s.ask("7", now) {
				t.Fatal("who has left has its slot still")
			}
			now = now.Add(busyPause)
			if !s.ask("first", now) {
				t.Error("who was turned away first gets no slot when turns are over")
			}
		})
	}
}

// TestFairTurns has peers ask for slots in several ways, more than there are slots. One that
// comes back when it was told to gets its share.
func TestFairTurns(t *testing.T) {
	always := func(s *slots, _ int, p peer.ID, now, _ time.Time) { s.ask(p, now) }
	const tick, lasts = 500 * time.Millisecond, 5 * time.Minute
	for _, c := range []struct {
		name   string
		others int
		// act is what one of the others does at each tick, if it is not honest.
		act func(s *slots, i int, p peer.ID, now, began time.Time)
	}{
		{name: "honest", others: 59},
		{name: "many honest", others: 191},
		{name: "asks all the time", others: 48, act: always},
		{name: "many ask all the time", others: 144, act: always},
		{name: "leaves and comes back", others: 48, act: func(s *slots, _ int, p peer.ID, now, began time.Time) {
			if now.Sub(began) > turnTime-2*tick {
				s.leave(p)
			}
			s.ask(p, now)
		}},
		{name: "gives its slot to another", others: 96, act: func(s *slots, i int, p peer.ID, now, began time.Time) {
			if now.Sub(began) > turnTime-2*tick {
				s.leave(p)
				s.ask(peer.ID(fmt.Sprint((i+uploads)%(2*uploads))), now)
			}
			s.ask(p, now)
		}},
		{name: "rests", others: 96, act: func(s *slots, i int, p peer.ID, now, _ time.Time) {
			if int(now.Unix())%(2*int(uploadIdle/time.Second)) == i%2 {
				s.ask(p, now)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, start := newSlots(), time.Unix(1_000_000_000, 0)
			type honest struct {
				next  time.Time
				delay time.Duration
				had   time.Duration
			}
			peers := make([]honest, c.others+1)
			for now := start; now.Before(start.Add(lasts)); now = now.Add(tick) {
				for i := range peers {
					id, f := peer.ID(fmt.Sprint(i)), &peers[i]
					if i < c.others && c.act != nil {
						c.act(s, i, id, now, s.taken[id].began)
						continue
					}
					switch {
					case now.Before(f.next):
					case s.ask(id, now):
						f.had += tick
						f.delay = firstRetry
					default: // as recruit
						f.delay = max(f.delay, busyPause)
						f.next = now.Add(f.delay)
						f.delay = min(2*f.delay, lastRetry)
					}
				}
			}
			share := time.Duration(float64(lasts) * min(1, float64(uploads)/float64(len(peers))))
			for i, f := range peers {
				if i < c.others && c.act != nil {
					continue
				}
				if f.had < share/2 {
					t.Errorf("peer %d had a slot for %v, its share is %v", i, f.had, share)
				}
			}
		})
	}
}
