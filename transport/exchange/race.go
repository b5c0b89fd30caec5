package exchange

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// fasterBy is how many times as fast as the source of nodes another has to be to take its
	// place.
	fasterBy = 2
	// raceBytes bounds what is asked for twice to find that out, unless a node is larger. Who
	// brings as much in two round trips of the other stays the source.
	raceBytes = 64 << 10
	// slowestTry bounds how many times as long as at first a rival is waited for: so many
	// doublings.
	slowestTry = 4
)

// race finds out whether another brings nodes faster than the source. A source that is slow, and
// yet not too slow, keeps all others waiting when nodes are all that is missing. One of those is
// asked for the next nodes then, as many as the source brings in a while: if they come before the
// source has brought half of them, the rival is the source. It is guarded by the Fetch's mutex.
type race struct {
	rival   *session // that is to be asked, or was and has not answered
	count   int      // nodes that it is asked for
	each    float64  // bytes that are expected of each
	read    int64    // bytes that the source had brought when the rival was asked
	began   time.Time
	races   int // of this source
	runners map[peer.ID]runner
	spent   int // bytes that were asked for twice
	// Since it was last looked whether the source is slow:
	ticks, idle int // of the former, those in which nodes were all that was missing
	bytes       int // of nodes that came, decoded
}

// runner is what is known of a peer. One that answers fast once, and is slow then, is not to be
// the source again and again.
type runner struct {
	rate  float64 // bytes/s of nodes, decoded, that it brought as the source of late; 0: not known
	tries int     // races that it ran as the rival
}

// tick notes whether nodes are all that is missing. The caller holds f.mu.
func (r *race) tick(f *Fetch) {
	r.ticks++
	if f.wantsNodes() {
		r.idle++
	}
}

// wantsNodes says whether all wait for nodes. The caller holds mu.
func (f *Fetch) wantsNodes() bool {
	return f.index.waiting && f.index.queued == 0 && len(f.pool.queue) == 0
}

// begin lets a rival run against the source, s, which brought so many bytes in the time that
// passed, if nodes were all that was missing for most of that. The caller holds f.mu.
func (r *race) begin(f *Fetch, s *session, now time.Time, passed time.Duration, read float64) {
	if !f.wantsNodes() || 2*r.idle < r.ticks {
		return
	}
	if r.runners == nil {
		r.runners = make(map[peer.ID]runner)
	}
	own, rate := r.runners[s.peer], float64(r.bytes)/passed.Seconds()
	if own.rate > 0 {
		rate = (own.rate + rate) / 2
	}
	own.rate = rate
	r.runners[s.peer] = own
	// Where they share a slow line, each rival makes all take longer.
	if now.Sub(r.began) < time.Duration(r.races)*passed || len(r.runners) >= maxRemembered {
		return
	}
	r.rival = nil
	for t := range f.sessions {
		if n, ok := r.worth(t, s, read/passed.Seconds()); ok && (r.rival == nil || r.before(t, r.rival)) {
			r.rival, r.count = t, n
		}
	}
	if r.rival == nil {
		return
	}
	r.began = now
	r.races++
	r.each = perNode(s, r.rival)
	r.spent += int(float64(r.count) * r.each)
	known := r.runners[r.rival.peer]
	known.tries++
	r.runners[r.rival.peer] = known
	f.changed.Broadcast()
}

// perNode is how many bytes of a node are expected from either. The caller holds fetch.mu.
func perNode(s, t *session) float64 { return max(s.nodeCost, t.nodeCost, 1) }

// worth says whether t may run against the source, s, which brings so many bytes a second, and for
// how many nodes. The caller holds fetch.mu.
func (r *race) worth(t, s *session, rate float64) (count int, ok bool) {
	f := s.fetch
	if t == s || !t.ready() || len(t.owed) > 0 || len(t.lists) > 0 {
		return 0, false
	}
	if s.based && !t.based {
		return 0, false // it would bring what is held too
	}
	if fasterBy*rate*t.rtt.Seconds() > raceBytes {
		return 0, false
	}
	known := r.runners[t.peer]
	while := t.firstPatience() << min(known.tries, slowestTry)
	bytes := min(rate*while.Seconds(), raceBytes)
	count = max(int(min(bytes/perNode(s, t), maxPieces)), 1)
	// Each runs once, and whoever was faster; the others if it costs little.
	ok = known == runner{} || known.rate > 0 && known.rate >= fasterBy*r.runners[s.peer].rate ||
		r.spent+int(bytes) <= raceBytes+int((f.tally.Received()-f.before)/stealPart)
	return count, ok
}

// before says whether t is to run before o: who is not known to be slow, who was faster, who ran
// less often, who is nearer.
func (r *race) before(t, o *session) bool {
	a, b := r.runners[t.peer], r.runners[o.peer]
	switch {
	case t.slow != o.slow:
		return o.slow
	case a.rate != b.rate:
		return a.rate > b.rate
	case a.tries != b.tries:
		return a.tries < b.tries
	}
	return t.rtt < o.rtt
}

// won says whether a, which the rival brought when it was asked for count nodes, makes that the
// source. Of an answer that comes from the source what is there by then counts as well: it may have
// many nodes. The caller holds the Fetch's mutex.
func (x *index) won(a answer, count int) bool {
	if x.source == nil || !x.waiting || x.queued > 0 || !x.answers(a) {
		return false
	}
	number := x.differ
	if a.full {
		number = x.all
	}
	came := int(float64(x.source.received.Load()-x.race.read) / x.race.each)
	return fasterBy*max(number-a.first, came) <= count
}
