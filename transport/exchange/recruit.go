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
)

// recruit turns candidates into sessions, at most maxActive at a time, those with
// the lowest known latency first, but those that failed last. A session that ended is
// tried again after a while: the peer may have come back, or hold more by then.
func (f *Fetch) recruit(ctx context.Context, candidates <-chan Candidate, peers *sync.WaitGroup) {
	type state struct {
		info    peer.AddrInfo
		hearsay bool          // known from other peers only
		mutual  bool          // fetches the same from here
		delay   time.Duration // before the next try
		waiting bool
		active  bool
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
		active  int
		ended   = make(chan outcome)
		again   = make(chan peer.ID)
		needed  = f.needed
		book    = f.client.host.Peerstore()
	)
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
				f.providers[c.ID] = struct{}{}
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
		case o := <-ended:
			active--
			s := known[o.peer]
			s.active, s.failed = false, o.err != nil
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
		if f.request.Once && candidates == nil && active == 0 && allBarren() {
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
		for len(waiting) > 0 && active < maxActive {
			s := known[waiting[0]]
			waiting = waiting[1:]
			s.waiting, s.active = false, true
			info := s.info
			active++
			peers.Go(func() {
				gave, err := f.try(ctx, info)
				if err != nil {
					f.client.log.Debug("provider ended", "peer", info.ID, "root", f.request.Root, "err", err)
				}
				select {
				case ended <- outcome{info.ID, gave, err}:
				case <-f.end:
				}
			})
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

// try connects to a peer and works with it until either side is done. gave says
// that the peer sent blocks.
func (f *Fetch) try(ctx context.Context, info peer.AddrInfo) (gave bool, err error) {
	st, release, err := f.client.stream(ctx, info)
	f.mu.Lock()
	if f.limited = nil; errors.Is(err, network.ErrResourceLimitExceeded) {
		f.limited = err
	}
	f.mu.Unlock()
	if err != nil {
		return false, err
	}
	defer release()
	s := newSession(f, info.ID, st)
	f.mu.Lock()
	f.sessions[s] = struct{}{}
	_, s.slow = f.slow[info.ID] // before
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.sessions, s)
		f.changed.Broadcast()
		f.mu.Unlock()
		if s.rtt > 0 {
			f.client.host.Peerstore().RecordLatency(info.ID, s.rtt)
		}
	}()
	leave := f.swarm.ask(info.ID)
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

var errBanned = errors.New("sent a bad block within the last hour")
