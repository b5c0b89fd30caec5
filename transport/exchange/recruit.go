package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

const (
	maxCandidates = 256
	connectLimit  = 15 * time.Second
	firstRetry    = time.Second
	lastRetry     = 30 * time.Second
	// dialTime is how long a dial keeps a place from others. A late one goes on without, up
	// to connectLimit; of more than maxLate the oldest ends.
	dialTime = time.Second
	maxLate  = 32
)

// An attempt is a dial, and the stream that it leads to.
type attempt struct {
	peer    peer.ID
	began   time.Time
	end     context.CancelFunc
	stream  network.Stream
	release func() // what keeps the connection
	err     error
	again   bool // the last session with the peer, or dial, failed
}

// recruit turns candidates into sessions, at most maxActive at a time, those with
// the lowest known latency first, but those that failed last. It dials as many as there are
// places, and more when that takes long; whoever is connected when all are taken waits for
// one like others. A session that ended is tried again after a while: the peer may have come
// back, or hold more by then.
func (f *Fetch) recruit(ctx context.Context, candidates <-chan Candidate, peers *sync.WaitGroup) {
	type state struct {
		info    peer.AddrInfo
		hearsay bool          // known from other peers only
		mutual  bool          // fetches the same from here
		delay   time.Duration // before the next try
		waiting bool
		active  bool // it is dialled, or has a session
		failed  bool // the last try
		barren  bool // that brought nothing, and not for want of a place
	}
	type outcome struct {
		peer peer.ID
		gave bool // it sent blocks
		err  error
	}
	var (
		known   = make(map[peer.ID]*state)
		waiting []peer.ID
		dials   []*attempt // under way, the oldest first
		active  int        // sessions
		dialled = make(chan *attempt)
		ended   = make(chan outcome)
		late    = time.NewTimer(0) // of the oldest dial that is not
		again   = make(chan peer.ID)
		needed  = f.needed
		book    = f.client.host.Peerstore()
	)
	defer late.Stop()
	wait := func(p peer.ID) {
		known[p].waiting = true
		waiting = append(waiting, p)
	}
	// forget makes room for a new candidate: of those that only others named, or else of
	// all, the one that failed most often goes. What others name makes room for nobody
	// better.
	forget := func(hearsay bool) bool {
		var worst peer.ID
		for p, s := range known {
			if s.active || hearsay && !s.hearsay {
				continue
			}
			if w := known[worst]; w == nil || s.hearsay && !w.hearsay || s.hearsay == w.hearsay && s.delay > w.delay {
				worst = p
			}
		}
		if worst == "" {
			return false
		}
		delete(known, worst)
		waiting = slices.DeleteFunc(waiting, func(p peer.ID) bool { return p == worst })
		return true
	}
	meet := func(info peer.AddrInfo, hearsay bool) {
		if info.ID == f.client.host.ID() {
			return
		}
		if !hearsay { // or anybody could add to where anybody is looked for
			book.AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
		}
		if s, ok := known[info.ID]; ok {
			s.hearsay = s.hearsay && hearsay
			if len(s.info.Addrs) == 0 {
				s.info.Addrs = info.Addrs
			}
			return
		}
		if len(known) >= maxCandidates && !forget(hearsay) {
			return
		}
		known[info.ID] = &state{info: info, hearsay: hearsay, delay: firstRetry}
		wait(info.ID)
		f.mu.Lock()
		if !hearsay && len(f.candidates) < maxCandidates {
			f.candidates = append(f.candidates, info)
		}
		f.mu.Unlock()
	}
	// over notes what became of a peer that was tried, for it to be tried again.
	over := func(o outcome) {
		s := known[o.peer]
		s.active, s.failed = false, o.err != nil
		if o.err != nil {
			f.client.log.Debug("provider ended", "peer", o.peer, "root", f.request.Root, "err", o.err)
		}
		if errors.Is(o.err, errProtocol) {
			f.client.bans.broke(o.peer)
		}
		if o.gave {
			s.delay = firstRetry
		}
		busy, refused := errors.AsType[*busyError](o.err)
		if refused {
			s.delay = max(s.delay, busy.pause)
		}
		s.barren = !o.gave && !refused
		// Spread out, so that peers that failed together do not return together.
		end := f.end // alone: the fetch is not to be kept for an hour
		time.AfterFunc(s.delay+rand.N(s.delay/4), func() {
			select {
			case again <- o.peer:
			case <-end:
			}
		})
		s.delay = min(2*s.delay, lastRetry)
	}
	for _, info := range f.early {
		meet(info, false)
	}
	allBarren := func() bool {
		for _, s := range known {
			if !s.barren {
				return false
			}
		}
		return true
	}
	latency := func(p peer.ID) time.Duration {
		if d := book.LatencyEWMA(p); d > 0 {
			return d
		}
		return time.Hour // unknown: after the known ones
	}
	for {
		select {
		case <-f.end:
			return
		case c, ok := <-candidates:
			if !ok {
				candidates = nil
				continue
			}
			f.mu.Lock()
			if c.Provider {
				f.providers.add(c.ID)
			}
			f.mu.Unlock()
			meet(c.AddrInfo, false)
		case info := <-f.met:
			meet(info, true)
		case p := <-f.joined:
			// If all ask first those who ask them, all have about as many to serve.
			meet(peer.AddrInfo{ID: p}, false)
			if s := known[p]; s != nil {
				s.mutual = true
			}
		case d := <-dialled:
			dials = slices.DeleteFunc(dials, func(o *attempt) bool { return o == d })
			switch {
			case d.err != nil:
				over(outcome{peer: d.peer, err: d.err})
			case active == maxActive:
				d.close()
				known[d.peer].active = false
				wait(d.peer)
			default:
				active++
				peers.Go(func() {
					gave, err := f.use(ctx, d)
					select {
					case ended <- outcome{d.peer, gave, err}:
					case <-f.end:
					}
				})
			}
		case o := <-ended:
			active--
			over(o)
		case <-late.C:
		case p := <-again:
			if s := known[p]; s != nil && !s.waiting && !s.active {
				wait(p)
			}
		case <-needed:
			needed = nil
		}
		if needed != nil {
			continue // all may be held already: nobody is dialled in vain
		}
		if f.request.Once && candidates == nil && len(dials)+active == 0 && allBarren() {
			f.mu.Lock()
			f.giveUp()
			f.mu.Unlock()
			return
		}
		slices.SortStableFunc(waiting, func(a, b peer.ID) int {
			return cmp.Or(compareBool(known[a].failed, known[b].failed), cmp.Compare(latency(a), latency(b)),
				compareBool(known[b].mutual, known[a].mutual),
				compareBool(known[a].hearsay, known[b].hearsay))
		})
		now := time.Now()
		lates := 0
		for lates < len(dials) && now.Sub(dials[lates].began) >= dialTime {
			lates++
		}
		for len(waiting) > 0 && len(dials)-min(lates, maxLate)+active < maxActive {
			s := known[waiting[0]]
			waiting = waiting[1:]
			s.waiting, s.active = false, true
			info := s.info
			dialling, end := context.WithCancel(ctx)
			d := &attempt{peer: info.ID, began: now, end: end, again: s.failed}
			dials = append(dials, d)
			peers.Go(func() {
				defer end()
				d.stream, d.release, d.err = f.dial(dialling, info)
				select {
				case dialled <- d:
				case <-f.end:
					if d.err == nil {
						d.close()
					}
				}
			})
		}
		if lates > maxLate {
			dials[0].end()
		}
		if lates < len(dials) {
			late.Reset(dialTime - now.Sub(dials[lates].began))
		}
		f.mu.Lock()
		f.crowded, f.mutual = len(waiting) > 0, slices.ContainsFunc(waiting, func(p peer.ID) bool { return known[p].mutual })
		f.mu.Unlock()
	}
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// dial connects to a peer and opens a stream.
func (f *Fetch) dial(ctx context.Context, info peer.AddrInfo) (_ network.Stream, release func(), err error) {
	st, release, err := f.client.stream(ctx, info)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.limited = nil; errors.Is(err, network.ErrResourceLimitExceeded) {
		f.limited = err
	}
	return st, release, err
}

// close gives up a stream that is not used.
func (d *attempt) close() {
	d.release()
	go d.stream.Reset() // may wait for the network
}

// use works with a peer over a stream until either side is done. gave says that the peer
// sent blocks.
func (f *Fetch) use(ctx context.Context, d *attempt) (gave bool, err error) {
	defer d.release()
	s := newSession(f, d.peer, d.stream)
	s.again = d.again
	f.mu.Lock()
	f.sessions[s] = struct{}{}
	_, s.slow = f.slow[d.peer] // before
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.sessions, s)
		f.changed.Broadcast()
		f.mu.Unlock()
		if s.rtt > 0 {
			f.client.host.Peerstore().RecordLatency(d.peer, s.rtt)
		}
	}()
	leave := f.swarm.ask(d.peer)
	defer leave()
	defer f.client.paths.enter(s)()
	err = s.run(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.gave, err
}

// stream connects to a peer and opens a stream; release ends what keeps the connection.
func (c *Client) stream(ctx context.Context, info peer.AddrInfo) (_ network.Stream, release func(), err error) {
	if c.bans.has(info.ID) {
		return nil, nil, errBanned
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if err := c.host.Connect(ctx, info); err != nil {
		return nil, nil, err
	}
	tag := fmt.Sprintf("%s/%d", Service, c.tags.Add(1))
	c.host.ConnManager().Protect(info.ID, tag)
	release = func() { c.host.ConnManager().Unprotect(info.ID, tag) }
	st, err := c.host.NewStream(ctx, info.ID, Protocol)
	if err == nil {
		err = st.Scope().SetService(Service)
		if err != nil {
			st.Reset()
		}
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return st, release, nil
}

var errBanned = errors.New("sent something wrong within the last hour")
