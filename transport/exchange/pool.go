package exchange

import (
	"math/rand/v2"
	"slices"
	"time"
)

// task is a segment of which leaves are missing.
type task struct {
	segment
	number  int
	left    int        // leaves that are missing
	owers   []*session // that were asked for them and have not answered
	working int        // answers that came and are being looked at
	queued  bool       // waits in the pool
	failed  bool       // one that owed it stalled, or has ended
	asked   time.Time  // when it was last asked for
}

// pool holds the tasks of a Fetch. It is guarded by its Fetch's mutex.
type pool struct {
	all   []*task // by number of the segment; nil where nothing was missing
	queue []*task // that nobody owes, mostly by number
}

const (
	// scanLimit bounds how many tasks are looked at to find one that a peer may have.
	scanLimit = 1 << 13
	// crowdSample is how many of those are compared, from a random one on.
	crowdSample = 256
)

// add makes a task of the latest segment, of which leaves are missing that claim so many
// bytes. The caller holds mu.
func (f *Fetch) add(s segment, missing, bytes int) {
	number := len(f.order.cuts) - 1
	s.bytes = bytes
	t := &task{segment: s, number: number, left: missing}
	f.pool.all = append(f.pool.all, make([]*task, number+1-len(f.pool.all))...)
	f.pool.all[number] = t
	if len(f.chosen.spans(nil, s.span, true)) == 0 { // else once that was looked at
		t.queued = true
		f.pool.queue = append(f.pool.queue, t)
	}
	f.need()
	f.changed.Broadcast()
}

// offer puts t into the pool again if something of it is missing that nobody owes. The
// caller holds mu.
func (f *Fetch) offer(t *task) {
	if t.left > 0 && len(t.owers) == 0 && t.working == 0 {
		f.pool.put(t)
	}
}

// put queues a task that nobody owes any more.
func (p *pool) put(t *task) {
	if t.left > 0 && !t.queued {
		t.queued = true
		p.queue = slices.Insert(p.queue, 0, t) // it was asked for early, so it comes early in order
	}
}

// putLast queues a task that a session which has gone quiet owes: if that is only slow, it
// brings it before the turn of the task comes.
func (p *pool) putLast(t *task) {
	if t.left > 0 && !t.queued {
		t.queued = true
		p.queue = append(p.queue, t)
	}
}

// tasks returns the tasks that have leaves in s, all segments of which are done. The
// caller holds mu.
func (f *Fetch) tasks(s span) []*task {
	var tasks []*task
	for i := s.first; i < s.end(); {
		number, part := f.order.segmentOf(i)
		if number < len(f.pool.all) && f.pool.all[number] != nil {
			tasks = append(tasks, f.pool.all[number])
		}
		i = part.end()
	}
	return tasks
}

// missing returns what s can be asked for of t. The caller holds mu.
func (f *Fetch) missing(t *task, s *session) []span {
	var spans []span
	for _, m := range f.got.spans(nil, t.span, false) {
		spans = s.offers(spans, m)
	}
	return spans
}

// take removes a task from the pool that s may be asked for, and returns it and what
// of it; nil if there is none. The caller holds mu.
//
// Of a site that others fetch at the same time, it is what fewest peers have, and among
// those any: so that each brings something that the others lack. Else it is the first,
// which is read from disks in order.
func (f *Fetch) take(s *session) (*task, []span) {
	q := f.pool.queue
	best, fewest, compared, now := -1, 0, 0, time.Now()
	var spans []span
	start := 0
	if f.crowd && len(q) > 0 {
		start = rand.IntN(len(q))
	}
	for i := range min(len(q), scanLimit) {
		i = (start + i) % len(q)
		t := q[i]
		if !f.suits(t, s, now) {
			continue
		}
		have := 0
		if f.crowd {
			have = 2 * f.holders(t)
			if f.takes%largeEvery == 0 && f.order.large(t.number) {
				have--
			}
			if compared++; compared > crowdSample && best >= 0 {
				break
			}
			if best >= 0 && have >= fewest {
				continue
			}
		}
		if m := f.missing(t, s); len(m) > 0 {
			best, fewest, spans = i, have, m
			if have <= 1 {
				break
			}
		}
	}
	if best < 0 {
		return nil, nil
	}
	f.takes++
	t := q[best]
	t.queued = false
	f.pool.queue = slices.Delete(q, best, best+1)
	return t, spans
}

// largeEvery is how often a fetch prefers large segments in a crowd. They take long to pass
// on, so they are to come early; if nothing else did, there would be little to pass on for
// long.
const largeEvery = 4

// suits says whether s might be asked for t. What somebody failed to bring is left to those
// that are relied on most: or each that comes and brings nothing could keep the same leaves
// for as long as it takes to notice. What somebody owes is left to that one while the line is
// full: asked for twice, all would come later. The caller holds mu.
func (f *Fetch) suits(t *task, s *session, now time.Time) bool {
	if len(t.owers) > 0 && f.full(s) {
		return false
	}
	return f.mayBring(t, s, now) && !(t.failed && f.better(t, s, now))
}

func (f *Fetch) mayBring(t *task, s *session, now time.Time) bool {
	return t.left > 0 && t.working == 0 && !slices.Contains(t.owers, s) && s.mayHave(t.span) && !s.later[t].After(now)
}

// better says whether another than s can be asked for t that is relied on more. The caller
// holds mu.
func (f *Fetch) better(t *task, s *session, now time.Time) bool {
	m := s.merit()
	for o := range f.sessions {
		if o.err == nil && o.opened && !o.stalled && o.merit() > m && f.mayBring(t, o, now) && len(f.missing(t, o)) > 0 {
			return true
		}
	}
	return false
}

// merit is how far a peer is relied on to bring leaves.
type merit int

const (
	barren  merit = iota // was asked for leaves and brought none
	unknown              // has brought nothing yet
	giving               // has brought nodes, or leaves over another stream
	proven               // has brought leaves
)

// merit returns what is known of the peer. The caller holds fetch.mu.
func (s *session) merit() merit {
	f := s.fetch
	if s.rate() > 0 {
		return proven
	}
	if _, ok := f.barren[s.peer]; ok {
		return barren
	}
	if f.tally.gave(s.peer) {
		return giving
	}
	return unknown
}

// fails notes that s did not bring what it owes of t in time. The caller holds mu.
func (f *Fetch) fails(s *session, t *task) {
	t.failed = true
	if s.rate() == 0 {
		f.barren.add(s.peer)
	}
}

// holders returns how many peers have all of t.
func (f *Fetch) holders(t *task) int {
	n := 0
	for s := range f.sessions {
		if s.opened && s.err == nil && s.hasAll(t.span) {
			n++
		}
	}
	return n
}

// has says whether the pool has something for s. The caller holds mu.
func (f *Fetch) has(s *session) bool {
	now := time.Now()
	for _, t := range f.pool.queue[:min(len(f.pool.queue), scanLimit)] {
		if f.suits(t, s, now) && len(f.missing(t, s)) > 0 {
			return true
		}
	}
	return false
}

// steal returns a task that another session owes and s would bring much sooner, or nil.
// The caller holds mu.
func (f *Fetch) steal(s *session) (*task, []span) {
	if !f.order.complete || len(f.pool.queue) > 0 && f.has(s) {
		return nil, nil
	}
	now := time.Now()
	var (
		best   *task
		spans  []span
		latest time.Duration
	)
	for o := range f.sessions {
		if o == s || o.err != nil {
			continue
		}
		ahead := 0
		for _, d := range o.owed {
			ahead += d.cost
			t := d.task
			if len(t.owers) > 1 && slices.ContainsFunc(t.owers, func(p *session) bool { return p != o && !p.stalled }) || !f.suits(t, s, now) {
				continue
			}
			// What took long already will take as long again, as far as is known; but that
			// is known less well than how fast a peer is.
			eta := max(o.eta(ahead), now.Sub(d.asked)/2)
			own := 2*s.eta(s.owedSize+d.cost) + stealMargin
			if f.crowd {
				own *= sharedBy // it comes when others have been served
			}
			if eta < latest || eta < own {
				continue
			}
			late := (now.Sub(d.asked) >= straggler || f.extra == 0) && eta >= lateGain*own
			if !late && f.extra+d.cost > stealMin+int((f.tally.Received()-f.before)/stealPart) {
				continue
			}
			if m := f.missing(t, s); len(m) > 0 {
				best, spans, latest = t, m, eta
			}
		}
	}
	return best, spans
}

const (
	// stealMargin is what a stolen task has to come sooner by, at the least.
	stealMargin = 50 * time.Millisecond
	// At most one part in stealPart of what was received, and stealMin bytes, is asked for
	// twice to be done sooner. What is called off before it is sent does not count.
	stealPart = 100
	stealMin  = 64 << 10
	// Nor do one task, and what is still owed after so long when all else is there or asked
	// for, if they come sooner by lateGain times what others have to.
	straggler = 1500 * time.Millisecond
	lateGain  = 2
)

// callOff tells those who still owe t, which is done, not to send it. The caller holds
// mu.
func (f *Fetch) callOff(t *task) {
	if t.queued { // a stall had put it there
		t.queued = false
		f.pool.queue = slices.DeleteFunc(f.pool.queue, func(q *task) bool { return q == t })
	}
	for _, s := range slices.Clone(t.owers) {
		s.drop(t)
	}
}
