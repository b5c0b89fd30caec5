package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

const (
	// maxProbes is how many peers are probed at a time.
	maxProbes = 16
	// probeTries is how often a peer is tried that new addresses come for.
	probeTries = 3
)

// SurveyRequest asks who holds a DAG.
type SurveyRequest struct {
	// Store has the nodes of the DAG, or is where they go; no leaves are fetched. Required.
	Store WriteStore
	Root  cid.Cid
	// Bases are as in Request.
	Bases []cid.Cid
	// Timeout ends the survey when nothing was learned for so long; 0 is never. Who has not
	// answered by then counts as unreachable.
	Timeout time.Duration
	// Progress, if not nil, is called now and then, from one goroutine at a time.
	Progress func(SurveyProgress)
}

// SurveyProgress tells how far a survey has come.
type SurveyProgress struct {
	Received int64 // bytes of the nodes that the store lacked
	Found    int   // peers that may hold the DAG
	Probed   int   // of them
}

// Survey finds out who of the peers that candidates yields, and of those that they name,
// holds the DAG below req.Root, the nearest first. Completeness is proven: a peer that says
// it holds all has to bring blocks that it cannot foresee.
//
// It ends when candidates is closed and all were probed. Those that were not announced as
// providers are left out unless they hold some of the leaves; those that were, if they turn
// out to lack the root. It fails with ctx's error, or with one of the store or of the DAG.
// Nodes that it fetched may go when it has returned.
func (c *Client) Survey(ctx context.Context, req SurveyRequest, candidates <-chan Candidate) ([]Probed, error) {
	s := &survey{
		client: c, request: req,
		known:   make(map[peer.ID]*probing),
		results: make(chan *probe),
		news:    make(chan struct{}, 1),
	}
	defer s.tasks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.run(ctx, cancel, candidates); err != nil {
		// What is under way ends with ctx.
		cancel()
		s.drain()
		return nil, err
	}
	return s.list(), nil
}

// survey is the work of Client.Survey. Its fields but the channels are for one goroutine.
type survey struct {
	client  *Client
	request SurveyRequest
	tasks   sync.WaitGroup
	results chan *probe
	news    chan struct{} // holds one value when a block came

	known     map[peer.ID]*probing
	others    int // known that were not announced
	waiting   []*probing
	active    int
	probed    int
	numbering bool
	order     *order
}

// probing is a peer that may hold the DAG.
type probing struct {
	info     peer.AddrInfo
	provider bool // it was announced as one
	tries    int
	busy     bool // waiting or active
	result   Probed
}

type numbered struct {
	order *order
	err   error
}

func (s *survey) run(ctx context.Context, cancel context.CancelFunc, candidates <-chan Candidate) error {
	var (
		feed     = make(chan Candidate) // to whoever fetches nodes
		unfed    []Candidate            // for feed
		fed      bool                   // all
		orders   = make(chan numbered, 1)
		progress = make(chan Progress, 1)
		silence  <-chan time.Time
		timer    *time.Timer
	)
	s.numbering = true
	s.tasks.Go(func() {
		o, err := s.number(ctx, feed, progress)
		orders <- numbered{o, err}
	})
	if s.request.Timeout > 0 {
		timer = time.NewTimer(s.request.Timeout)
		defer timer.Stop()
	}
	heard := func() {
		if timer != nil {
			timer.Reset(s.request.Timeout)
		}
	}
	for !s.done(candidates == nil) {
		s.start(ctx)
		if candidates == nil && len(unfed) == 0 && !fed {
			fed = true
			close(feed)
		}
		var next chan<- Candidate
		var first Candidate
		if s.numbering && len(unfed) > 0 {
			next, first = feed, unfed[0]
		}
		if silence = nil; timer != nil && !s.numbering { // a fetch of nodes has a limit of its own
			silence = timer.C
		}
		select {
		case cand, ok := <-candidates:
			if !ok {
				candidates = nil
				break
			}
			if s.meet(cand) {
				heard()
				if s.numbering {
					unfed = append(unfed, cand)
				}
			}
		case next <- first:
			unfed = unfed[1:]
		case p := <-progress:
			s.report(p.Received)
		case n := <-orders:
			if n.err != nil {
				return n.err
			}
			s.numbering, s.order = false, n.order
			heard()
		case p := <-s.results:
			s.take(p)
			heard()
		case <-s.news:
			heard()
		case <-silence:
			cancel()
			s.drain()
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !s.numbering {
			s.report(0)
		}
	}
	return nil
}

// done says whether nothing more is to be learned; searched, that no further candidates
// come.
func (s *survey) done(searched bool) bool {
	return searched && (len(s.known) == 0 || !s.numbering && s.active == 0 && len(s.waiting) == 0)
}

// number returns the order of the DAG, for which it fetches nodes that the store lacks. It
// returns nil if nobody has them.
func (s *survey) number(ctx context.Context, candidates <-chan Candidate, progress chan Progress) (o *order, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.client.log.Error("panic while numbering", "root", s.request.Root, "panic", r)
			o, err = nil, fmt.Errorf("internal error: %v", r)
		}
	}()
	req := s.request
	o, err = buildOrder(ctx, req.Store, req.Root, cid.Undef)
	if !errors.Is(err, blockstore.ErrNotFound) && !errors.Is(err, blockstore.ErrCorrupt) {
		return o, err
	}
	_, err = s.client.Fetch(ctx, Request{
		Store: req.Store, Root: req.Root, Bases: req.Bases, Timeout: req.Timeout, NodesOnly: true, Once: true,
		Progress: func(p Progress) {
			select {
			case progress <- p:
			default: // the last one was not looked at yet
			}
		},
	}, candidates)
	if _, ok := errors.AsType[*UnreachableError](err); ok {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return buildOrder(ctx, req.Store, req.Root, cid.Undef)
}

// meet notes a candidate, and says whether it tells anything new.
func (s *survey) meet(cand Candidate) bool {
	if cand.ID == s.client.host.ID() {
		return false
	}
	k := s.known[cand.ID]
	switch {
	case k == nil:
		if s.others >= maxCandidates && !cand.Provider || len(s.known) >= 2*maxCandidates {
			return false
		}
		if !cand.Provider {
			s.others++
		}
		k = &probing{info: peer.AddrInfo{ID: cand.ID}}
		s.known[cand.ID] = k
	case cand.Provider && !k.provider:
		s.others--
	}
	k.provider = k.provider || cand.Provider
	fresh := k.tries == 0 && !k.busy
	for _, a := range cand.Addrs {
		if len(k.info.Addrs) < maxAddrs && !slices.ContainsFunc(k.info.Addrs, a.Equal) {
			k.info.Addrs = append(slices.Clip(k.info.Addrs), a)
			fresh = fresh || k.tries < probeTries && k.result.Standing == Unreachable
		}
	}
	if fresh && !k.busy {
		k.busy = true
		s.waiting = append(s.waiting, k)
	}
	return fresh
}

// start probes those who wait, once it is known what to ask them for.
func (s *survey) start(ctx context.Context) {
	for !s.numbering && len(s.waiting) > 0 && s.active < maxProbes {
		k := s.waiting[0]
		s.waiting = s.waiting[1:]
		k.tries++
		s.active++
		info := k.info
		s.tasks.Go(func() {
			s.results <- s.client.probe(ctx, info, s.request.Root, s.order, func() {
				select {
				case s.news <- struct{}{}:
				default:
				}
			})
		})
	}
}

// take notes what was found out about a peer, and whom it named.
func (s *survey) take(p *probe) {
	s.active--
	k := s.known[p.peer]
	k.busy = false
	if k.tries == 1 {
		s.probed++
	}
	if r := p.result(); r.Standing >= k.result.Standing {
		k.result = r
	}
	for _, info := range p.met {
		s.meet(Candidate{AddrInfo: info})
	}
}

// drain takes in what ends.
func (s *survey) drain() {
	for s.active > 0 {
		s.take(<-s.results)
	}
}

func (s *survey) report(received int64) {
	if s.request.Progress != nil {
		s.request.Progress(SurveyProgress{Received: received, Found: len(s.known), Probed: s.probed})
	}
}

// list returns what was found out, the nearest first.
func (s *survey) list() []Probed {
	var list []Probed
	for _, k := range s.known {
		r := k.result
		if r.Standing == Unreachable {
			r.Peer = k.info
		}
		if r.Standing == Absent || !k.provider && (r.Standing == Unreachable || r.Share == 0) {
			continue
		}
		list = append(list, r)
	}
	const never = time.Duration(math.MaxInt64)
	slices.SortFunc(list, func(a, b Probed) int {
		return cmp.Or(cmp.Compare(cmp.Or(a.RTT, never), cmp.Or(b.RTT, never)), cmp.Compare(a.Peer.ID, b.Peer.ID))
	})
	return list
}
