package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// leafCost is the least that the answer to a leaf counts for. firstRatio is what a
	// session assumes of how leaves shrink before it has seen answers, and basedRatio if
	// they are deltas.
	leafCost   = 16
	firstRatio = 0.2
	basedRatio = 0.03
	// maxLies is how many MISS a peer may send for leaves that it said it holds.
	maxLies = 8
	// missTime is after how long it may be asked again.
	missTime = 5 * time.Second
	// newsBurst is how many HAVE and PEERS a peer may send, and newsRate how many more in
	// each second: each may take as long as thousands of other frames, and a provider that
	// has news sends one of each four times a second.
	newsBurst = 100
	newsRate  = 12
)

var (
	errAbsent   = errors.New("does not hold it")
	errLies     = errors.New("lacks much of what it said it holds")
	errStalled  = fmt.Errorf("less than %d bytes arrived in %v", minBytes, dropAfter)
	errPutsOff  = fmt.Errorf("answered LATER for %v", dropAfter)
	errUseless  = errors.New("brought nothing while others wait")
	errFinished = errors.New("fetch has ended")
)

// busyError reports a peer that asked to be left alone for a while.
type busyError struct{ pause time.Duration }

func (e *busyError) Error() string { return fmt.Sprintf("is busy for %v", e.pause) }

// session is one provider's part in a Fetch.
type session struct {
	fetch  *Fetch
	peer   peer.ID
	stream network.Stream

	// The fields below are guarded by fetch.mu.

	rtt     time.Duration // 0 until HELLO came
	opening int           // OPEN that are not answered
	base    cid.Cid       // that was named last
	opens   int
	again   bool // the last session with the peer, or dial, failed
	opened  bool
	based   bool // it holds the base
	eager   int  // bytes of leaves that it may choose

	all         bool // it holds every leaf, but for lacks
	have, lacks leafSet
	lies        int
	missedAt    time.Time
	others      int                 // that exchange the DAG with it
	later       map[*task]time.Time // before when it is not to be asked for them
	putsOff     time.Time           // since when it answers LATER, and brings less than minBytes
	meanwhile   int                 // bytes of answers that it brought since

	lists    []list  // that it was asked for and has not answered, in order
	listed   int     // nodes that came of the first
	nodeCost float64 // bytes of its answers for a node, of late
	slow     bool    // with nodes
	ended    bool    // it said that no further nodes follow

	owed     []*debt // in the order in which they were asked for
	owedSize int     // sum of their costs
	asked    leafSet // of owed, not answered
	late     leafSet // called off, but may come all the same
	cancels  []span

	came     int // DATA
	reported int // of them, to the peer

	ratio   float64 // of answers to what links claim
	known   bool    // the ratio was seen
	window  window
	waiting bool // in changed.Wait: it would act at once
	stalled bool
	gave    bool  // sent something good
	err     error // why the session ended; set once

	askedLast time.Time
	handing   bool      // the workers keep it from reading
	begun     time.Time // not guarded
	news      int       // HAVE and PEERS that came; the reader's
	ticked    int64     // of received, those in flow
	flow      flow
	received  atomic.Int64 // bytes read, but those of news and refusals; not guarded
	seen      int64        // of them by lastByte
	lastByte  time.Time    // when the last of enough new ones were seen, or nothing was owed
	dropStart time.Time    // of the time in which minBytes are due
	dropSeen  int64        // bytes read at dropStart
	began     time.Time
	swapSeen  int64     // bytes read when the slowest session was last looked for
	useful    time.Time // when it last brought a block, or enough bytes, or had nothing to do
	usefulAt  int64     // bytes read by then
}

// debt is what was asked for of a task.
type debt struct {
	task     *task
	spans    []span
	leaves   int // of spans
	left     int // of them, not answered
	bytes    int // claimed
	cost     int // bytes of answers that are expected; less as they come
	asked    time.Time
	received int64 // by then
	full     bool  // it filled the window
}

func newSession(f *Fetch, p peer.ID, st network.Stream) *session {
	now := time.Now()
	return &session{
		fetch: f, peer: p, stream: st, window: window{size: firstWindow, gain: steadyGain}, ratio: firstRatio, nodeCost: nodeCost,
		begun: now, lastByte: now, dropStart: now, began: now, useful: now, later: make(map[*task]time.Time),
	}
}

// holds says whether the peer says that it holds a leaf. The caller holds fetch.mu.
func (s *session) holds(leaf int) bool {
	return (s.all || s.have.has(leaf)) && !s.lacks.has(leaf)
}

func (s *session) hasAll(t span) bool {
	return (s.all || s.have.hasAll(t)) && s.lacks.n == 0
}

// mayHave says whether it may be worth looking what of t the peer holds.
func (s *session) mayHave(t span) bool {
	return s.all || s.have.n > 0 && len(s.have.spans(nil, t, true)) > 0
}

// offers appends the parts of t that the peer can be asked for.
func (s *session) offers(dst []span, t span) []span {
	if s.all && s.lacks.n == 0 && s.asked.n == 0 {
		return append(dst, t)
	}
	for i := t.first; i < t.end(); i++ {
		if !s.holds(i) || s.asked.has(i) {
			continue
		}
		if n := len(dst); n > 0 && dst[n-1].end() == i {
			dst[n-1].n++
		} else {
			dst = append(dst, span{i, 1})
		}
	}
	return dst
}

func (s *session) rate() float64 { return s.window.rate() }

// unlisted returns how many nodes were asked for and have not come. The caller holds
// fetch.mu.
func (s *session) unlisted() int {
	n := -s.listed
	for _, l := range s.lists {
		n += l.count
	}
	return n
}

// eta returns how long it takes until so many bytes have come.
func (s *session) eta(bytes int) time.Duration {
	if s.stalled {
		return time.Hour
	}
	rate := s.rate()
	if rate == 0 { // it was not asked yet
		rate = firstWindow / (s.rtt + 100*time.Millisecond).Seconds()
	}
	return s.rtt + time.Duration(float64(bytes)/rate*float64(time.Second))
}

// end ends the session for the given reason; what it owes goes back to the pool.
// The caller holds fetch.mu.
func (s *session) end(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	if s.fetch.index.source == s {
		// Without others, who comes next is asked as the first is.
		s.fetch.index.source, s.fetch.index.open = nil, len(s.fetch.sessions) > 1
	}
	for _, d := range s.owed {
		d.task.owers = slices.DeleteFunc(d.task.owers, func(o *session) bool { return o == s })
		s.fetch.fails(s, d.task)
		s.fetch.offer(d.task)
	}
	s.owed, s.owedSize = nil, 0
	if len(s.lists) > 0 {
		s.fetch.slow.add(s.peer)
	}
	s.fetch.changed.Broadcast()
	go s.stream.Reset() // may wait for the network
}

// run asks and reads until the fetch has ended or the session has. It returns
// why: nil if there was nothing left to do.
func (s *session) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.stream.Reset() })
	defer stop()
	f := s.fetch
	readerDone := make(chan struct{})
	opened := time.Now()
	go func() {
		defer close(readerDone)
		err := f.guard(func() error { return s.read(opened) })
		f.mu.Lock()
		defer f.mu.Unlock()
		s.end(err)
	}()
	err := s.ask()
	if err == nil {
		err = errFinished
	}
	f.mu.Lock()
	s.end(err)
	f.mu.Unlock()
	<-readerDone
	if errors.Is(s.err, errFinished) {
		return nil
	}
	return s.err
}

// ask sends requests as there is something to ask for and the window allows.
func (s *session) ask() error {
	// HELLO leaves in one write with the first requests, without waiting for the other
	// side's.
	frame := appendFrame(nil, frameHello)
	for {
		var err error
		n := len(frame)
		if frame, err = s.next(frame); err != nil || len(frame) == n {
			return err
		}
		if err := s.stream.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
			return err
		}
		if _, err := s.stream.Write(frame); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		frame = frame[:0]
	}
}

// next waits until there is something to ask for, and appends it to frame. It appends
// nothing when the fetch has ended.
func (s *session) next(frame []byte) ([]byte, error) {
	f := s.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := len(frame); ; {
		if s.err != nil {
			return frame, s.err
		}
		if f.ended {
			return frame, nil
		}
		if s.opens == 0 || !f.index.undecided && !s.base.Equals(f.order.base) {
			frame = s.open(frame)
		}
		if l, ok := f.index.lists(f, s); ok {
			frame = appendList(frame, l)
		}
		if len(s.cancels) > 0 {
			frame = s.cancel(frame)
		}
		if s.opened && s.opening == 0 && !s.stalled {
			frame = s.want(frame)
		}
		if s.came > s.reported && (s.others > 0 || len(frame) > n) {
			frame = appendGot(frame, s.came)
			s.reported = s.came
		}
		if len(frame) > n {
			return frame, nil
		}
		s.waiting = true
		f.changed.Wait()
		s.waiting = false
	}
}

// open appends an OPEN. The caller holds fetch.mu.
func (s *session) open(frame []byte) []byte {
	f := s.fetch
	o := open{root: f.request.Root}
	if !f.index.undecided {
		o.base = f.order.base
		if s.opens == 0 && !s.again && f.index.waiting && f.index.all == 0 && f.index.source == nil && !f.index.open && len(f.request.Bases) == 0 && !f.request.NodesOnly {
			// A small site comes whole in the first answer.
			o.eager = firstWindow
			s.eager = o.eager
		}
	}
	f.asked.add(s.peer)
	s.base = o.base
	s.opens++
	s.opening++
	return appendOpen(frame, o)
}

// cancel appends a CANCEL of what was called off. The caller holds fetch.mu.
func (s *session) cancel(frame []byte) []byte {
	slices.SortFunc(s.cancels, func(a, b span) int { return a.first - b.first })
	n := min(len(s.cancels), maxSpans)
	frame = appendSpanFrame(frame, frameCancel, s.cancels[:n])
	s.cancels = s.cancels[n:]
	return frame
}

// want appends a WANT of what the window has room for. The caller holds fetch.mu.
func (s *session) want(frame []byte) []byte {
	f := s.fetch
	limit := s.limit()
	var spans []span
	var batch []*debt
	queued := len(s.cancels)
	for _, d := range s.owed {
		queued += len(d.spans)
	}
	now := time.Now()
	// The provider takes maxQueued spans, some of which it may split.
	for s.hasRoom(limit) && len(spans) < maxSpans-segmentLeaves && queued+len(spans) < maxQueued-2*maxSpans && !f.nearerWaits(s) {
		t, parts := f.take(s)
		stolen := t == nil
		if stolen {
			if t, parts = f.steal(s); t == nil {
				break
			}
		}
		d := &debt{task: t, spans: parts, asked: now, received: s.received.Load()}
		for _, p := range parts {
			d.leaves += p.n
			s.asked.addSpan(p)
			s.late.removeSpan(p)
		}
		d.left = d.leaves
		d.bytes = t.bytes * d.leaves / max(t.left, 1)
		d.cost = max(int(float64(d.bytes)*s.ratio), leafCost*d.leaves)
		if stolen {
			f.extra += d.cost
		}
		t.asked = now
		t.owers = append(t.owers, s)
		s.owed = append(s.owed, d)
		s.owedSize += d.cost
		batch = append(batch, d)
		spans = append(spans, parts...)
	}
	if len(batch) == 0 {
		return frame
	}
	for _, d := range batch {
		d.full = s.owedSize >= limit
	}
	s.askedLast = now
	f.changed.Broadcast() // others may have waited for a nearer one to take its share
	slices.SortFunc(spans, func(a, b span) int { return a.first - b.first })
	return appendSpanFrame(frame, frameWant, joined(spans))
}

// limit is how many bytes of leaves s may owe: what nodes leave of its window. The caller
// holds fetch.mu.
func (s *session) limit() int {
	limit := s.pathWindow()
	if s.fetch.client.readers.Load() > 0 {
		limit /= readersShare // somebody waits for a page
	}
	return limit - int(float64(s.unlisted())*s.nodeCost)
}

// hasRoom says whether s may be asked for more if it may owe limit bytes. The caller
// holds fetch.mu.
func (s *session) hasRoom(limit int) bool {
	if s.shared() {
		return len(s.owed) == 0 || s.owedSize < min(limit, s.window.path)
	}
	return s.owedSize < limit
}

// shared says whether the peer has so much to do for others that what it is asked for before
// it could be on its way would come no sooner. The caller holds fetch.mu.
func (s *session) shared() bool { return s.others >= sharedBy && !s.based }

// sharedBy is with how many others a peer counts as shared.
const sharedBy = 3

// readersShare is what part of its window a session uses while a reader waits for a page
// to come over the same line.
const readersShare = 3

// joined joins spans that follow each other.
func joined(spans []span) []span {
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && out[n-1].end() == s.first {
			out[n-1].n += s.n
		} else {
			out = append(out, s)
		}
	}
	return out
}

// nearerWaits says whether a nearer provider has room for what is in the pool, and
// should be asked first. In a crowd all have something to do, and one that has brought
// leaves does not wait for one that has not, nor anybody for one that failed to. The caller
// holds mu.
func (f *Fetch) nearerWaits(s *session) bool {
	if f.crowd {
		return false
	}
	for t := range f.sessions {
		if t != s && t.ready() && t.merit() > barren && (t.rate() > 0 || s.rate() == 0) && t.hasRoom(t.limit()) && t.rtt > 0 && (s.rtt == 0 || t.rtt < s.rtt) && f.has(t) {
			return true
		}
	}
	return false
}

// ready says whether the session would take work at once, or nearly so: a moment
// after it has asked, it may not be back yet.
func (s *session) ready() bool {
	return s.err == nil && s.opened && s.opening == 0 && !s.stalled && (s.waiting || time.Since(s.askedLast) < backSoon)
}

// backSoon is how long a session that has asked may take to come back.
const backSoon = 100 * time.Millisecond
