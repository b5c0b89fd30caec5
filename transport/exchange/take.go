package exchange

import (
	"bufio"
	"slices"
	"sync/atomic"
	"time"
)

// read takes in frames until the stream ends.
func (s *session) read(opened time.Time) error {
	f := s.fetch
	r := bufio.NewReaderSize(countingReader{s.stream, []*atomic.Int64{&f.tally.received, &s.received}}, 64<<10)
	for first := true; ; first = false {
		t, body, err := readFrameInto(r, maxAnswer, f.client.buffer)
		if err != nil {
			return err
		}
		switch {
		case first && t == frameHello && len(body) <= maxHello:
			f.mu.Lock()
			s.rtt = max(time.Since(opened), 1)
			f.changed.Broadcast()
			f.mu.Unlock()
		case first:
			return violation("no HELLO")
		default:
			if err := s.take(t, body); err != nil {
				return err
			}
		}
	}
}

// take acts on a frame.
func (s *session) take(t frameType, body []byte) error {
	switch t {
	case frameOpened, frameHave, framePeers, frameMiss, frameLater:
		s.received.Add(-int64(len(body))) // or who only talks would count as one that brings something
	}
	switch t {
	case frameOpened:
		o, err := parseOpened(body)
		if err != nil {
			return err
		}
		return s.accepted(o)
	case frameIndex:
		a, err := parseIndex(body)
		if err != nil {
			return err
		}
		return s.indexed(a)
	case frameHave:
		if err := s.told(); err != nil {
			return err
		}
		all, spans, err := parseHave(body)
		if err != nil {
			return err
		}
		s.holding(all, spans)
	case frameData:
		a, err := parseData(body)
		if err != nil {
			return err
		}
		return s.arrived(a, body)
	case frameMiss:
		spans, err := parseSpanFrame(body)
		if err != nil {
			return err
		}
		return s.missed(spans)
	case framePeers:
		if err := s.told(); err != nil {
			return err
		}
		others, peers, err := parsePeers(body)
		if err != nil {
			return err
		}
		s.fetch.mu.Lock()
		s.others = others
		s.fetch.crowd = s.fetch.crowd || others > 0
		s.fetch.changed.Broadcast() // they may wait for a GOT
		s.fetch.mu.Unlock()
		for _, p := range peers {
			select {
			case s.fetch.met <- p:
			default: // there are enough
			}
		}
	case frameLater:
		spans, err := parseSpanFrame(body)
		if err != nil {
			return err
		}
		return s.putOff(spans)
	case frameBusy:
		pause, err := parseBusy(body)
		if err != nil {
			return err
		}
		return &busyError{pause}
	default:
		return violation("unexpected frame of type %d", t)
	}
	return nil
}

// told counts news.
func (s *session) told() error {
	if s.news++; s.news > newsBurst+int(newsRate*time.Since(s.begun).Seconds()) {
		return violation("%d HAVE and PEERS", s.news)
	}
	return nil
}

// accepted takes in an OPENED.
func (s *session) accepted(o opened) error {
	f := s.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.opening == 0 {
		return violation("OPENED without OPEN")
	}
	s.opening--
	if o.status == statusAbsent {
		return errAbsent
	}
	s.heard(time.Now())
	s.opened = true
	s.based = o.status == statusBased
	f.checkBase(s)
	if s.based && !s.known {
		s.ratio = basedRatio
	}
	s.others = o.others
	f.crowd = f.crowd || o.others > 0
	f.changed.Broadcast()
	return nil
}

// holding takes in a HAVE.
func (s *session) holding(all bool, spans []span) {
	f := s.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	s.all = s.all || all
	if !s.all {
		f.crowd = true
	}
	for _, t := range spans {
		s.have.addSpan(t)
		s.lacks.removeSpan(t)
	}
	f.changed.Broadcast()
}

// indexed hands on an INDEX, if it is what was asked for.
func (s *session) indexed(a answer) error {
	f := s.fetch
	f.mu.Lock()
	if len(s.lists) == 0 {
		f.mu.Unlock()
		return violation("INDEX that nobody asked for")
	}
	l := s.lists[0]
	if a.first != l.from+s.listed || l.full && !a.full || s.listed+a.body.count > l.count {
		f.mu.Unlock()
		return violation("INDEX that nobody asked for")
	}
	x := &f.index
	uses := x.source == nil && x.waiting && x.answers(a) && !(s.slow && f.other(s))
	if x.race.rival == s {
		x.race.rival = nil
		if x.won(a, l.count) {
			uses = true
		}
	}
	if uses {
		last := s.lists[len(s.lists)-1]
		x.use(f, s, l.full, last.from+last.count)
	}
	s.heard(time.Now())
	s.listed += a.body.count
	s.ended = s.ended || a.last
	if a.last || s.listed == l.count {
		s.lists, s.listed = s.lists[1:], 0
	}
	if a.body.count > 0 {
		s.nodeCost += (float64(len(a.body.payload))/float64(a.body.count) - s.nodeCost) / 4
	}
	wanted := x.source == s && !x.last && !f.order.complete
	if wanted {
		x.last = a.last
		if a.last || (x.undecided || x.held) && len(s.lists) == 0 {
			x.source = nil
		}
	}
	// As long as the source may be lying, others that were asked too are heard, and whoever
	// brings what all wait for: a source may be fast with one node, and then silent.
	heard := x.answers(a) && (!x.sure || x.waiting && x.queued == 0)
	if wanted = a.body.count > 0 && (wanted || heard); wanted {
		x.queued++
	}
	f.changed.Broadcast()
	f.mu.Unlock()
	if !wanted {
		return nil // another was asked meanwhile
	}
	return s.hand(f.indexes, arrival{session: s, answer: a})
}

// hand gives a to whoever looks at such. While they are busy nothing is read, for which
// the peer is not to blame.
func (s *session) hand(to chan<- arrival, a arrival) error {
	s.setHanding(true)
	defer s.setHanding(false)
	var done <-chan struct{}
	if to == s.fetch.indexes {
		done = s.fetch.numbered
	}
	select {
	case to <- a:
		return nil
	case <-done:
		return nil
	case <-s.fetch.end:
		return errFinished
	}
}

func (s *session) setHanding(on bool) {
	s.fetch.mu.Lock()
	defer s.fetch.mu.Unlock()
	s.handing = on
}

// arrived takes what a answers off what is owed, adapts the window, and hands a on.
func (s *session) arrived(a answer, frame []byte) error {
	f := s.fetch
	f.mu.Lock()
	s.came++
	t := a.span()
	arrival := arrival{session: s, answer: a, frame: frame}
	if !s.expected(t) {
		if s.eager < len(a.body.payload) {
			f.mu.Unlock()
			return violation("leaves that nobody asked for")
		}
		s.eager -= len(a.body.payload)
		if arrival.chosen = t.end() > f.order.leaves.len()-f.order.segment.n; arrival.chosen {
			f.chosen.addSpan(t)
		}
	}
	if s.meanwhile += len(a.body.payload); s.meanwhile >= minBytes {
		s.putsOff = time.Time{}
	}
	if !arrival.chosen {
		s.answered(t, len(a.body.payload))
		if arrival.tasks = f.tasks(t); len(arrival.tasks) == 0 {
			f.mu.Unlock()
			return nil // there already
		}
		for _, t := range arrival.tasks {
			t.working++
		}
	}
	f.changed.Broadcast()
	f.mu.Unlock()
	return s.hand(f.arrivals, arrival)
}

// expected says whether t was asked for. The caller holds fetch.mu.
func (s *session) expected(t span) bool {
	for i := t.first; i < t.end(); i++ {
		if !s.asked.has(i) && !s.late.has(i) {
			return false
		}
	}
	return true
}

// answered takes t off what is owed: size bytes came for it, or a MISS if that is 0. The
// caller holds fetch.mu.
func (s *session) answered(t span, size int) {
	now := time.Now()
	s.heard(now)
	s.late.removeSpan(t)
	s.asked.removeSpan(t)
	claims := 0
	s.owed = slices.DeleteFunc(s.owed, func(d *debt) bool {
		n := 0
		for _, p := range d.spans {
			n += p.cut(t).n
		}
		if n == 0 {
			return false
		}
		cost := d.cost * n / max(d.left, 1)
		d.cost -= cost
		s.owedSize -= cost
		claims += d.bytes * n / d.leaves
		if d.left -= n; d.left > 0 {
			return false
		}
		s.owedSize -= d.cost
		s.paid(d.task)
		if size > 0 {
			s.window.sample(s.received.Load()-d.received, d.asked, now, d.full, s.rtt, int(float64(d.bytes)*s.ratio))
		}
		return true
	})
	if claims > 0 && size > 0 {
		ratio := min(float64(size)/float64(claims), 1)
		if s.known {
			ratio = (3*s.ratio + ratio) / 4
		}
		s.ratio, s.known = ratio, true
	}
}

// paid ends that s owes t. The caller holds fetch.mu.
func (s *session) paid(t *task) {
	t.owers = slices.DeleteFunc(t.owers, func(o *session) bool { return o == s })
}

// drop calls off what s owes of t. The caller holds fetch.mu.
func (s *session) drop(t *task) {
	s.paid(t)
	s.owed = slices.DeleteFunc(s.owed, func(d *debt) bool {
		if d.task != t {
			return false
		}
		s.owedSize -= d.cost
		s.fetch.extra = max(s.fetch.extra-d.cost, 0)
		for _, p := range d.spans {
			for _, left := range s.asked.spans(nil, p, true) {
				s.asked.removeSpan(left)
				s.late.addSpan(left)
				s.cancels = append(s.cancels, left)
			}
		}
		return true
	})
}

// missed takes in a MISS.
func (s *session) missed(spans []span) error {
	f := s.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range spans {
		if !s.refused(t, func(*task) { s.lacks.addSpan(t) }) {
			return violation("MISS that nobody asked for")
		}
	}
	s.missedAt = time.Now()
	if s.lies++; s.lies > maxLies {
		return errLies
	}
	return nil
}

// putOff takes in a LATER.
func (s *session) putOff(spans []span) error {
	f := s.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if s.putsOff.IsZero() {
		s.putsOff, s.meanwhile = now, 0
	}
	until := now.Add(putOffTime)
	for _, t := range spans {
		if !s.refused(t, func(task *task) { s.later[task] = until }) {
			return violation("LATER that nobody asked for")
		}
	}
	return nil
}

// putOffTime is how long a peer that answered LATER is not asked for the same again.
const putOffTime = 500 * time.Millisecond

// putsOffTooLong says whether the provider answers LATER to what is still missing, and has
// brought less than minBytes for dropAfter: an honest one sends what is asked for
// again after maxRefusal. The caller holds fetch.mu.
func (s *session) putsOffTooLong(now time.Time) bool {
	if s.putsOff.IsZero() || now.Sub(s.putsOff) <= dropAfter {
		return false
	}
	for t := range s.later {
		if t.left > 0 {
			return true
		}
	}
	s.putsOff, s.meanwhile = time.Time{}, 0 // others brought it all
	return false
}

// refused takes t, which was asked for, off what is owed, and offers its tasks to others
// after note was called for each of them. It says whether t was asked for. The caller
// holds fetch.mu.
func (s *session) refused(t span, note func(*task)) bool {
	f := s.fetch
	if t.end() > f.order.leaves.len() || !s.expected(t) {
		return false
	}
	s.answered(t, 0)
	for _, task := range f.tasks(t) {
		note(task)
		f.offer(task)
	}
	f.changed.Broadcast()
	return true
}
