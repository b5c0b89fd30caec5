package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// The window is how many bytes a provider may owe. It follows the
	// bandwidth-delay product of the path, between the last two.
	firstWindow = 256 << 10
	minWindow   = 64 << 10
	maxWindow   = 8 << 20

	// stallAfter, or four round trips if they take longer, without a byte
	// makes a session's wants available to the others. The session ends when
	// less than minBytes have come in dropAfter while it owes something: the
	// slowest links that people use bring ten times as much.
	stallAfter = time.Second
	dropAfter  = 15 * time.Second
	minBytes   = 8 << 10

	// minCost is the least that the answer to a want counts for: a CID that is asked
	// for and a few bytes of delta. firstRatio is what a session assumes before it has
	// seen answers: pages shrink to less, pictures and archives do not.
	minCost    = 64
	firstRatio = 0.3
)

var (
	errMiss    = errors.New("holds nothing more of it")
	errStalled = fmt.Errorf("less than %d bytes arrived in %v", minBytes, dropAfter)
)

// session is one provider's part in a Fetch.
type session struct {
	fetch  *Fetch
	peer   peer.ID
	stream network.Stream

	// The fields below are guarded by fetch.mu.

	rtt      time.Duration // 0 until HELLO came
	owed     []debt        // asked for, in the order in which answers come
	owedSize int           // sum of their costs
	ratio    [2]float64    // of answers to the blocks that they stand for; see kindOf
	window   int
	waiting  bool // in changed.Wait: it would act at once
	missed   bool // answered MISS at least once
	stalled  bool
	gave     bool  // sent a good block
	err      error // why the session ended; set once

	askedLast time.Time
	asked     int // wants that were asked for
	answered  int // of them
	delivered int // bytes of answers that came, compressed
	marks     []mark

	handing   bool         // the workers keep it from reading
	received  atomic.Int64 // bytes read; not guarded
	seen      int64        // of them at the last check
	lastByte  time.Time    // when check saw the last new one, or when nothing was owed
	dropStart time.Time    // of the time in which minBytes are due
	dropSeen  int64        // bytes read at dropStart
	swapSeen  int64        // bytes read when the slowest session was last looked for
}

// debt is a want that was asked for, and how many bytes the answer was expected to
// take.
type debt struct {
	*want
	base cid.Cid // that the answer may be a delta against
	cost int
}

// mark is taken when wants are asked for, and tells the rate when they are answered.
type mark struct {
	asked     int // up to the last of these wants
	at        time.Time
	delivered int
	full      bool // they filled the window
}

// end ends the session for the given reason; what it owes goes back to the pool.
// The caller holds fetch.mu.
func (s *session) end(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	for _, w := range s.owed {
		w.owers = slices.DeleteFunc(w.owers, func(o *session) bool { return o == s })
	}
	s.release()
	go s.stream.Reset() // may wait for the network
}

// release offers what the session owes to the others. It may still arrive.
func (s *session) release() {
	for _, d := range s.owed {
		s.fetch.pool.put(d.want)
	}
	s.fetch.changed.Broadcast()
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

var errFinished = errors.New("fetch has ended")

// ask sends WANTs as the window allows.
func (s *session) ask() error {
	frame := appendFrame(nil, frameHello)
	for {
		batch, err := s.next()
		if err != nil || batch == nil {
			return err
		}
		asks := make([]ask, len(batch))
		for i, w := range batch {
			asks[i] = ask{w.cid, w.base} // that of the debt
		}
		// HELLO and the first WANT leave in one write, without waiting for
		// the other side's HELLO.
		frame = appendWant(frame, asks)
		if err := s.stream.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
			return err
		}
		if _, err := s.stream.Write(frame); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		frame = frame[:0]
	}
}

// next waits until the session may ask for more, and returns what. It returns
// nil and no error when the fetch has ended.
func (s *session) next() ([]debt, error) {
	f := s.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return nil, s.err
		case f.ended:
			return nil, nil
		case s.owedSize < s.window && !s.stalled && !f.nearerWaits(s):
			if batch := f.pool.take(s, s.window-s.owedSize); len(batch) > 0 {
				now := time.Now()
				if len(s.owed) == 0 {
					s.lastByte, s.dropStart, s.dropSeen = now, now, s.received.Load()
				}
				s.askedLast = now
				s.asked += len(batch)
				for _, w := range batch {
					w.owers = append(w.owers, s)
					w.asked = now
					d := debt{w, w.base, s.cost(w)}
					s.owed = append(s.owed, d)
					s.owedSize += d.cost
				}
				s.marks = append(s.marks, mark{s.asked, now, s.delivered, s.owedSize >= s.window})
				f.asked[s.peer] = struct{}{}
				f.changed.Broadcast() // others may have waited for a nearer one to take its share
				return s.owed[len(s.owed)-len(batch):], nil
			}
			if s.missed && len(s.owed) == 0 {
				return nil, errMiss
			}
		}
		s.waiting = true
		f.changed.Wait()
		s.waiting = false
	}
}

// nearerWaits says whether a nearer provider has room for what is in the pool, and
// should be asked first. The caller holds mu.
func (f *Fetch) nearerWaits(s *session) bool {
	for t := range f.sessions {
		if t != s && t.ready() && t.owedSize < t.window && t.rtt > 0 && (s.rtt == 0 || t.rtt < s.rtt) && f.pool.has(t) {
			return true
		}
	}
	return false
}

// idle says whether the session has nothing to do, and would take work.
func (s *session) idle() bool { return s.ready() && len(s.owed) == 0 }

// ready says whether the session would take work at once, or nearly so: a moment
// after it has asked, it may not be back yet.
func (s *session) ready() bool {
	return s.err == nil && !s.stalled && (s.waiting || time.Since(s.askedLast) < backSoon)
}

// backSoon is how long a session that has asked may take to come back.
const backSoon = 100 * time.Millisecond

// read takes in frames until the stream ends.
func (s *session) read(opened time.Time) error {
	f := s.fetch
	r := bufio.NewReaderSize(countingReader{s.stream, []*atomic.Int64{&f.received, &s.received}}, 64<<10)
	for first := true; ; first = false {
		t, body, err := readFrame(r, maxFrame)
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
		case t == frameMiss:
			n, err := parseMiss(body)
			if err != nil {
				return err
			}
			if err := s.miss(n); err != nil {
				return err
			}
		case t == frameData:
			d, err := parseData(body)
			if err != nil {
				return err
			}
			wants, err := s.arrived(d)
			if err != nil {
				return err
			}
			if err := s.hand(arrival{s, wants, d}); err != nil {
				return err
			}
		default:
			return violation("unexpected frame of type %d", t)
		}
	}
}

// hand gives a to the workers. While they are busy nothing is read, for which the
// peer is not to blame.
func (s *session) hand(a arrival) error {
	s.setHanding(true)
	defer s.setHanding(false)
	select {
	case s.fetch.arrivals <- a:
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

// arrived takes the wants that d answers off what is owed, and adapts the window.
func (s *session) arrived(d data) ([]debt, error) {
	f := s.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	wants, err := s.pop(len(d.lengths))
	if err != nil {
		return nil, err
	}
	s.delivered += len(d.payload)
	var sent, stood [2]float64 // bytes of answers, and of the blocks
	for i, w := range wants {
		k := kindOf(w.base)
		sent[k] += float64(len(d.payload)) * float64(d.lengths[i]) / float64(max(d.total, 1))
		stood[k] += float64(w.size)
	}
	for k := range stood {
		if stood[k] > 0 {
			s.ratio[k] = (s.ratio[k] + min(sent[k]/stood[k], 1)) / 2
		}
	}
	for len(s.marks) > 0 && s.marks[0].asked <= s.answered {
		m := s.marks[0]
		s.marks = s.marks[1:]
		if !m.full {
			continue // for want of wants: that tells nothing of the path
		}
		// What arrives in a round trip and a quarter, and in 20 ms for the other
		// side's scheduling, keeps the path full. Doubling while most of the window
		// is used lets it grow as long as the path has room.
		perSecond := float64(s.delivered-m.delivered) / max(time.Since(m.at), time.Millisecond).Seconds()
		window := int(perSecond * (1.25*s.rtt.Seconds() + 0.02))
		if window > s.window*6/10 {
			window = max(window, 2*s.window)
		}
		s.window = min(max(window, s.window*3/4, minWindow), maxWindow)
	}
	f.changed.Broadcast()
	return wants, nil
}

// miss takes the oldest n wants off what is owed, for others to provide.
func (s *session) miss(n int) error {
	f := s.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	wants, err := s.pop(n)
	if err != nil {
		return err
	}
	s.missed = true
	for _, d := range wants {
		w := d.want
		if w.lacks == nil {
			w.lacks = make(map[peer.ID]struct{})
		}
		w.lacks[s.peer] = struct{}{}
		f.pool.put(w)
	}
	f.changed.Broadcast()
	return nil
}

// cost returns how many bytes the answer to w is expected to take.
func (s *session) cost(w *want) int {
	return max(int(float64(w.size)*s.ratio[kindOf(w.base)]), minCost)
}

// kindOf tells wants apart that take much of what blocks take, and those with a base,
// which take little: 0 and 1.
func kindOf(base cid.Cid) int {
	if base.Defined() {
		return 1
	}
	return 0
}

func (s *session) pop(n int) ([]debt, error) {
	if n > len(s.owed) {
		return nil, violation("%d blocks that nobody asked for", n-len(s.owed))
	}
	debts := s.owed[:n:n]
	s.owed = s.owed[n:]
	s.answered += n
	for _, d := range debts {
		s.owedSize -= d.cost
		d.owers = slices.DeleteFunc(d.owers, func(o *session) bool { return o == s })
	}
	s.stalled = false
	return debts, nil
}

// check finds out whether the provider has gone quiet. The caller holds fetch.mu.
func (s *session) check(now time.Time) {
	if s.err != nil || len(s.owed) == 0 {
		return
	}
	if s.handing {
		s.lastByte, s.dropStart, s.dropSeen = now, now, s.received.Load()
		return
	}
	if n := s.received.Load(); n != s.seen {
		s.seen, s.lastByte = n, now
		if s.stalled {
			s.stalled = false
			s.fetch.changed.Broadcast()
		}
	}
	if now.Sub(s.dropStart) > dropAfter {
		if s.seen-s.dropSeen < minBytes {
			s.end(errStalled)
			return
		}
		s.dropStart, s.dropSeen = now, s.seen
	}
	if !s.stalled && now.Sub(s.lastByte) > max(stallAfter, 4*s.rtt) {
		s.stalled = true
		s.release()
	}
}

type countingReader struct {
	io.Reader
	counts []*atomic.Int64
}

func (r countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	for _, c := range r.counts {
		c.Add(int64(n))
	}
	return n, err
}
