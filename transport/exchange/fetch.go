package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"
)

// maxActive is how many providers a Fetch uses at a time.
const maxActive = 12

// arrival is an answer on its way from a session to whoever decodes it.
type arrival struct {
	session *session
	answer  answer
	tasks   []*task // that it answers, in part or whole
	chosen  bool    // by the peer: tasks are not known yet
	frame   []byte  // what answer is in, to be used again
}

// Client fetches from other nodes.
type Client struct {
	host    host.Host
	server  *Server
	log     *slog.Logger
	decoder *zstd.Decoder // of answers
	bans    *bans
	paths   *paths
	readers atomic.Int32 // pages that somebody waits for and that may be on their way
	doors   *doors       // before peers that are asked for pages
	asks    atomic.Int32 // streams that are open for pages
	scratch sync.Pool    // of *[]byte
	buffers sync.Pool    // of *[]byte, for large frames
	tags    atomic.Int64 // connections that were protected
}

// NewClient returns a Client. What it fetches, server serves meanwhile.
func NewClient(h host.Host, server *Server, log *slog.Logger) (*Client, error) {
	c := &Client{host: h, server: server, log: log, bans: newBans(), paths: newPaths(), doors: newDoors()}
	c.scratch.New = func() any { return new([]byte) }
	var err error
	if c.decoder, err = newDecoder(); err != nil {
		return nil, err
	}
	return c, nil
}

// buffer returns n bytes to read a frame into.
func (c *Client) buffer(n int) []byte {
	if n >= bufferSize {
		if b, ok := c.buffers.Get().(*[]byte); ok && cap(*b) >= n {
			return (*b)[:n]
		}
	}
	return make([]byte, n)
}

// bufferSize is from how many bytes on buffers are used again.
const bufferSize = 64 << 10

// done says that b, of buffer, is not needed any more.
func (c *Client) done(b []byte) {
	if cap(b) >= bufferSize {
		c.buffers.Put(&b)
	}
}

// Fetch brings the DAG below req.Root into req.Store and returns when all of it
// is durable. It asks the peers that candidates yields, and those that they name, at
// most maxActive at a time, the nearest first, and asks those that failed again after a
// while. It takes candidates as fast as they come.
//
// What the store holds already is not asked for. Fetch fails with an
// UnreachableError after req.Timeout without progress, with ctx's error, or with
// an error of the store or of the DAG itself. Blocks that arrived before stay. Its
// memory grows by about 100 bytes for each distinct block.
func (c *Client) Fetch(ctx context.Context, req Request, candidates <-chan Candidate) (Result, error) {
	f := newFetch(c, req)
	for {
		res, err := f.run(ctx, candidates)
		refused := f.refused
		switch {
		case errors.Is(err, errNoBase) && len(req.Bases) > 0:
			req.Bases, refused = nil, nil // one is damaged, or was removed meanwhile
		case errors.Is(err, errOtherBase):
			refused = append(refused, f.order.base)
		default:
			return res, err
		}
		req.Tally = f.tally
		// What came stays.
		next := newFetch(c, req)
		next.early, next.refused, next.fetched = f.candidates, refused, res.Bytes
		next.asked, next.providers = f.asked, f.providers
		f = next
	}
}

// Fetch brings one DAG into a store. See Client.Fetch.
type Fetch struct {
	client   *Client
	request  Request
	tally    *Tally
	swarm    *swarm
	shared   bool // what it fetches is served from swarm
	arrivals chan arrival
	indexes  chan arrival
	met      chan peer.AddrInfo // peers that others named
	joined   chan peer.ID       // peers that came to fetch the same from here
	early    []peer.AddrInfo    // candidates from before
	refused  []cid.Cid          // bases that were tried, and that a provider of nodes lacks
	end      chan struct{}      // closed when finished or failed
	needed   chan struct{}      // closed when something has to come from peers
	numbered chan struct{}      // closed when no further nodes are looked at

	mu         sync.Mutex
	changed    *sync.Cond // broadcast whenever a session or the indexer may have to act
	order      *order
	index      index
	pool       pool
	flow       flow
	got        leafSet // that are held
	chosen     leafSet // that came before it was known which they are
	left       int     // leaves that are not
	sessions   map[*session]struct{}
	candidates []peer.AddrInfo // that came
	crowded    bool            // candidates wait for a session to end
	mutual     bool            // some of them fetch the same from here
	crowd      bool            // others fetch the same, so each should fetch something else
	takes      int             // tasks that were taken, from a random number on
	asked      peerSet
	providers  peerSet
	barren     peerSet // were asked for leaves, and brought none
	slow       peerSet // with nodes
	progress   Progress
	before     int64 // bytes that the tally had when it began
	fetched    int64 // bytes of the blocks that were fetched
	extra      int   // bytes that were asked for twice to be done sooner
	lastBlock  time.Time
	limited    error // by the resource manager, when a peer was last to be asked
	ended      bool
	err        error
}

// A peerSet is of peers that a Fetch or Get remembers to its end, at most maxRemembered of them:
// whoever looks for peers finds new ones as often as it looks.
type peerSet map[peer.ID]struct{}

const maxRemembered = 4096

func (s peerSet) add(p peer.ID) {
	if len(s) < maxRemembered {
		s[p] = struct{}{}
	}
}

func newFetch(c *Client, req Request) *Fetch {
	f := &Fetch{
		client: c, request: req, tally: cmp.Or(req.Tally, new(Tally)),
		arrivals:  make(chan arrival, 4),
		indexes:   make(chan arrival, 2),
		met:       make(chan peer.AddrInfo, maxPeers),
		joined:    make(chan peer.ID, maxPeers),
		end:       make(chan struct{}),
		needed:    make(chan struct{}),
		numbered:  make(chan struct{}),
		sessions:  make(map[*session]struct{}),
		asked:     make(peerSet),
		providers: make(peerSet),
		barren:    make(peerSet),
		slow:      make(peerSet),
		lastBlock: time.Now(),
	}
	f.changed = sync.NewCond(&f.mu)
	f.before = f.tally.Received()
	f.takes = rand.IntN(largeEvery)
	f.index.undecided = len(req.Bases) > 0
	f.order = newOrder(req.Root, cid.Undef)
	return f
}

func (f *Fetch) run(ctx context.Context, candidates <-chan Candidate) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { f.fail(context.Cause(ctx)) })
	defer stop()
	f.swarm = f.client.server.swarms.enter(f.request.Root)
	defer f.client.server.swarms.leave(f.swarm)

	// Workers decode, verify and store, so that this costs each core rather than
	// the one that reads from a fast peer. What they write last is flushed after
	// the end, so their errors count even then.
	var workers errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error { return f.failing(f.work) })
	}
	workers.Go(func() error { return f.failing(f.number) })
	var peers sync.WaitGroup
	peers.Go(func() { f.recruit(ctx, candidates, &peers) })
	f.watch()
	cancel()
	peers.Wait()
	err := workers.Wait()

	f.mu.Lock()
	res := Result{
		Blocks:   f.progress.Known,
		Bytes:    f.fetched,
		Received: f.tally.Received(),
		Peers:    f.tally.Peers(),
	}
	if f.err != nil {
		err = f.err // the first one
	}
	f.mu.Unlock()
	switch {
	case f.shared:
		f.swarm.end(err == nil)
	case err == nil:
		f.swarm.forget() // it has more than it knows
	}
	if err == nil {
		err = f.request.Store.Sync()
	}
	if err == nil {
		f.report()
	}
	return res, err
}

// failing runs do and fails the fetch with its error.
func (f *Fetch) failing(do func() error) error {
	err := f.guard(do)
	if err != nil {
		f.fail(err)
	}
	return err
}

// guard turns a panic in code that handles a stranger's bytes into an error.
func (f *Fetch) guard(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			f.client.log.Error("panic while fetching", "root", f.request.Root, "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return do()
}

// finish ends the fetch; a nil err means that all is there. The caller holds mu.
func (f *Fetch) finish(err error) {
	if f.ended {
		return
	}
	f.ended, f.err = true, err
	close(f.end)
	f.changed.Broadcast()
}

// giveUp ends the fetch for want of peers. The caller holds mu.
func (f *Fetch) giveUp() {
	f.finish(&UnreachableError{
		Missing: max(f.left, 1), Waited: time.Since(f.lastBlock).Round(time.Second),
		Providers: len(f.providers), Asked: len(f.asked), Limit: f.limited,
	})
}

func (f *Fetch) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finish(err)
}

// settled ends the fetch if nothing is missing. The caller holds mu.
func (f *Fetch) settled() {
	if f.left == 0 && f.order.complete {
		f.finish(nil)
	}
}

// need says that something has to come from peers.
func (f *Fetch) need() {
	select {
	case <-f.needed:
	default:
		close(f.needed)
	}
}

// watch reports progress and looks after the sessions until the fetch has ended.
func (f *Fetch) watch() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ticks := time.NewTicker(flowTick)
	defer ticks.Stop()
	swap := time.NewTicker(dropAfter)
	defer swap.Stop()
	balance := time.NewTicker(time.Second)
	defer balance.Stop()
	for {
		select {
		case <-f.end:
			return
		case <-ticks.C:
			f.mu.Lock()
			f.tick()
			f.mu.Unlock()
		case <-swap.C:
			f.mu.Lock()
			f.swapSlowest()
			f.mu.Unlock()
		case <-balance.C:
			f.mu.Lock()
			f.swapBusiest()
			f.mu.Unlock()
		case now := <-tick.C:
			f.mu.Lock()
			for s := range f.sessions {
				s.check(now)
			}
			f.index.check(f, now)
			f.changed.Broadcast() // some of what sessions wait for is that time passes
			if t := f.request.Timeout; t > 0 && now.Sub(f.lastBlock) > t {
				f.giveUp()
			}
			f.mu.Unlock()
			f.report()
		}
	}
}

// swapSlowest ends the session that brought least since the last call, if another
// candidate waits for its place. The caller holds mu.
func (f *Fetch) swapSlowest() {
	var slowest *session
	least := int64(math.MaxInt64)
	for s := range f.sessions {
		n := s.received.Load()
		if brought := n - s.swapSeen; brought < least && s.err == nil && time.Since(s.began) > dropAfter {
			slowest, least = s, brought
		}
		s.swapSeen = n
	}
	if f.crowded && len(f.sessions) >= maxActive && slowest != nil {
		slowest.end(errSlowest)
	}
}

var errSlowest = errors.New("slowest while others wait")

// swapBusiest ends the session with a peer that more fetch from than would if all had as many,
// if there is one and a candidate that fetches from here waits for its place. All who fetch
// from it decide so at the same time: each by a chance that leaves it as many as it should
// have. The caller holds mu.
func (f *Fetch) swapBusiest() {
	if !f.mutual || len(f.sessions) < maxActive {
		return
	}
	for s := range f.sessions {
		if n := s.others + 1; s.err == nil && s.opened && !s.all && n > maxActive && rand.IntN(n) < n-maxActive {
			s.end(errBusiest)
			return
		}
	}
}

var errBusiest = errors.New("has many to serve while others have few")

// report calls the request's progress function, without mu, since it may block.
func (f *Fetch) report() {
	if f.request.Progress == nil {
		return
	}
	f.mu.Lock()
	p := f.progress
	p.Blocks = p.Known - f.left
	p.Received, p.Peers = f.tally.Received(), f.giving()
	p.Providers, p.Asked = len(f.providers), len(f.asked)
	f.mu.Unlock()
	f.request.Progress(p)
}

// giving returns how many peers there are that have sent blocks over a stream which goes on.
// The caller holds mu.
func (f *Fetch) giving() int {
	peers := make(map[peer.ID]struct{}, len(f.sessions))
	for s := range f.sessions {
		if s.gave && s.err == nil {
			peers[s.peer] = struct{}{}
		}
	}
	return len(peers)
}

// blame ends the session of a peer that sent something wrong, and keeps the peer away
// for a while.
func (f *Fetch) blame(s *session, err error) {
	f.client.bans.add(s.peer)
	f.client.log.Warn("peer sent a bad block", "peer", s.peer, "err", err)
	f.mu.Lock()
	defer f.mu.Unlock()
	s.end(err)
}

// came notes that s sent something good. The caller holds mu.
func (f *Fetch) came(s *session) {
	s.gave = true
	f.tally.came(s.peer)
	f.lastBlock = time.Now()
	s.useful, s.usefulAt = f.lastBlock, s.received.Load()
}

// held counts bytes of the DAG that nobody has to send. The caller holds mu.
func (f *Fetch) held(n uint64) {
	f.progress.Held = addSizes(f.progress.Held, n)
	f.progress.Bytes = addSizes(f.progress.Bytes, n)
}

// sent counts n bytes of the DAG that a peer sent. The caller holds mu.
func (f *Fetch) sent(n int) {
	f.fetched += int64(n)
	f.progress.Bytes = addSizes(f.progress.Bytes, uint64(n))
}

// addSizes returns a + b, or the largest int64 if sizes that a tree claims are
// absurd.
func addSizes(a int64, b uint64) int64 {
	if b > math.MaxInt64 || a > math.MaxInt64-int64(b) {
		return math.MaxInt64
	}
	return a + int64(b)
}
