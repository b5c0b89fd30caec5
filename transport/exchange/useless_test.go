package exchange

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
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

// TestSlowestGoes has one session bring much at first, and then less than the others: it makes
// room, if all places are taken and another candidate waits for one.
func TestSlowestGoes(t *testing.T) {
	h := newHost(t)
	for _, tt := range []struct {
		name           string
		crowded        bool
		sessions, goes int // -1 is none
		young          bool
	}{
		{name: "others wait", crowded: true, sessions: maxActive, goes: 0},
		{name: "others wait, and it is new", crowded: true, sessions: maxActive, young: true, goes: 1},
		{name: "others wait, and there is a place", crowded: true, sessions: maxActive - 1, goes: -1},
		{name: "nobody waits", sessions: maxActive, goes: -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mirror := nodeOn(t, near{h, "mirror", nil}, newStore(t), nil)
				f := newFetch(mirror.client, Request{Root: raw("nowhere").CID()})
				f.crowded = tt.crowded
				var list []*session
				brings := func(times int64) {
					for i, s := range list {
						s.received.Add(int64(i+1) * times)
					}
				}
				for i := range tt.sessions {
					s := newSession(f, peer.ID(rune('a'+i)), noStream{})
					s.opened = true
					f.sessions[s] = struct{}{}
					list = append(list, s)
				}
				brings(1)
				list[0].received.Add(1e9)
				var watch sync.WaitGroup
				watch.Go(f.watch)
				time.Sleep(dropAfter + time.Second)
				if tt.young {
					f.mu.Lock()
					list[0].began = time.Now()
					f.mu.Unlock()
				}
				brings(1000)
				time.Sleep(dropAfter)
				f.fail(errFinished)
				watch.Wait()
				for i, s := range list {
					if gone := s.err == errSlowest; gone != (i == tt.goes) {
						t.Errorf("session %d ended: %v", i, s.err)
					}
				}
			})
		})
	}
}

// TestSilentSource has a source of nodes send nothing: the others are asked for a node, and
// whoever brings it first is the source, be it the one that was silent.
func TestSilentSource(t *testing.T) {
	for first := range 3 {
		f, list := idleFetch(t, 0, 3)
		x := &f.index
		x.waiting = true
		f.order.complete = false
		if _, ok := x.lists(f, list[0]); !ok || x.source != list[0] {
			t.Fatal("the source is not asked")
		}
		if _, ok := x.lists(f, list[1]); ok {
			t.Fatal("two are asked at once")
		}
		heard := time.Now()
		list[0].lastByte = heard
		if x.check(f, heard.Add(firstStall)); x.source != list[0] {
			t.Fatal("the source was given up early")
		}
		if x.check(f, heard.Add(firstStall+1)); x.source != nil {
			t.Fatal("a silent source is waited for")
		}
		for i, s := range list {
			if l, ok := x.lists(f, s); ok != (i > 0) || ok && l.count != 1 {
				t.Errorf("session %d is asked for nodes, %v: %v", i, ok, l)
			}
		}
		s := list[first]
		if err := s.indexed(answer{first: 0, body: body{count: 1}}); err != nil || x.source != s {
			t.Errorf("session %d brought the node first, %v, and is the source: %v", first, err, x.source == s)
		}
		if first > 0 && x.next != 1 || first == 0 && x.next <= 1 {
			t.Errorf("session %d is asked from node %d on", first, x.next)
		}
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
		s.lastByte = now
		if x.check(f, now); (x.source == nil) != slow {
			t.Errorf("%d nodes: given up %v", n, x.source == nil)
		}
		x.source, x.failed = s, 0
	}
}

// TestTalkBringsNothing has a peer that has nearly brought enough say what it holds, name
// others, and refuse: that is as much as if it had said nothing.
func TestTalkBringsNothing(t *testing.T) {
	const few = 200 // bytes, fewer than any of the frames have
	spans := every(few, 2)
	for name, talk := range map[string][]byte{
		"HAVE":  appendHave(nil, false, spans),
		"PEERS": appendPeers(nil, 0, strangers(t, maxPeers)),
		"MISS":  appendSpanFrame(nil, frameMiss, spans),
		"LATER": appendSpanFrame(nil, frameLater, spans),
	} {
		// talks lets it talk after so many bytes, when it owes all leaves.
		talks := func(t *testing.T, after int64) (f *Fetch, s *session) {
			f, list := idleFetch(t, 2*few, 2)
			s = list[0]
			s.ratio = 0
			s.stream = &wire{Reader: bytes.NewReader(concat(hello, talk))}
			s.want(nil)
			s.useful, s.dropStart = time.Now().Add(-time.Minute), time.Now().Add(-time.Minute)
			f.order.complete, f.index.waiting = false, true
			f.index.lists(f, s)
			s.received.Store(after)
			if err := s.read(time.Now()); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return f, s
		}
		t.Run(name, func(t *testing.T) {
			_, s := talks(t, minBytes-few)
			if s.check(time.Now()); s.err != errStalled {
				t.Errorf("its session has not stalled: %v", s.err)
			}
			f, s := talks(t, minBytes-few)
			f.crowded = true
			if s.check(time.Now()); s.err != errUseless {
				t.Errorf("its session is not useless to those who wait: %v", s.err)
			}
			f, s = talks(t, slowBytes-few)
			now := f.index.looked.Add(slowTime + 1)
			s.lastByte = now // a node now and then
			if f.index.check(f, now); f.index.source == s {
				t.Error("it is still asked for nodes")
			}
		})
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
