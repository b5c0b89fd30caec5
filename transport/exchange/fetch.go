package exchange

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
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

	"pollux/blockstore"
	"pollux/dag"
	"pollux/transport/delta"
)

// maxActive is how many providers a Fetch uses at a time.
const maxActive = 12

// Store is where a Fetch finds what is held already and puts what arrives.
type Store interface {
	Getter
	Has(cid.Cid) (bool, error)
	NewWriter() *blockstore.Writer
	Sync() error
}

// Candidate is a peer that may hold blocks of a DAG.
type Candidate struct {
	peer.AddrInfo
	Provider bool // it was announced as a provider, rather than merely connected
}

// Request says what to fetch.
type Request struct {
	// Store is fetched into. Required.
	Store Store
	Root  cid.Cid
	// Bases are roots of DAGs that are held whole and may be earlier versions of Root, at
	// most maxBases. What one of them has at the same path, peers may send as a change
	// of that.
	Bases []cid.Cid
	// Size is what the DAG below Root takes according to its link, 0 if unknown.
	Size uint64
	// Single asks for the block Root alone, without what it links to.
	Single bool
	// Timeout ends the fetch when no block has arrived for so long; 0 is never.
	Timeout time.Duration
	// Progress, if not nil, is called about ten times a second.
	Progress func(Progress)
}

// Progress tells how far a Fetch has come.
type Progress struct {
	Blocks     int   // blocks of the DAG met so far that are held
	Known      int   // blocks of the DAG met so far
	Bytes      int64 // bytes of the DAG held, as its links count them
	TotalBytes int64 // bytes of the DAG, as its links count them; 0 until the root is there
	Received   int64 // bytes read from peers for it
	Peers      int   // peers that have sent blocks
	Providers  int   // peers that were announced as providers
	Asked      int   // peers that were asked
}

// Result is what a finished Fetch did.
type Result struct {
	Blocks   int   // distinct blocks of the DAG
	Bytes    int64 // bytes of the blocks that were fetched
	Received int64 // bytes read from peers for it
	Peers    int   // peers that sent blocks
}

// UnreachableError reports blocks that no peer had within the time allowed.
type UnreachableError struct {
	Missing   int           // blocks known to be missing
	Waited    time.Duration // without a block arriving
	Providers int           // peers that were announced as providers
	Asked     int           // peers that were asked
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("nothing arrived for %v; blocks missing: %d, providers found: %d, peers asked: %d",
		e.Waited, e.Missing, e.Providers, e.Asked)
}

// arrival is a DATA frame on its way from a session to a worker.
type arrival struct {
	session *session
	wants   []debt
	data    data
}

// Fetch brings one DAG into a store. See Client.Fetch.
type Fetch struct {
	client   *Client
	request  Request
	arrivals chan arrival
	end      chan struct{} // closed when finished or failed
	needed   chan struct{} // closed when something has to come from peers
	received atomic.Int64

	mu        sync.Mutex
	changed   *sync.Cond // broadcast whenever a session or the expander may have to act
	pool      pool
	nodes     []node // whose links are still to be followed
	waiting   int    // links in nodes
	open      int    // wants that are not done, and nodes
	seen      map[cid.Cid]struct{}
	wants     map[*want]struct{} // that are not done
	sessions  map[*session]struct{}
	crowded   bool // candidates wait for a session to end
	asked     map[peer.ID]struct{}
	providers map[peer.ID]struct{}
	gave      map[peer.ID]struct{}
	progress  Progress
	fetched   int64 // bytes of the blocks that were fetched
	lastBlock time.Time
	ended     bool
	err       error
}

// Client fetches DAGs from other nodes.
type Client struct {
	host    host.Host
	log     *slog.Logger
	decoder *zstd.Decoder
	bans    *bans
}

// NewClient returns a Client.
func NewClient(h host.Host, log *slog.Logger) (*Client, error) {
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	return &Client{host: h, log: log, decoder: dec, bans: newBans()}, nil
}

// Fetch brings the DAG below req.Root into req.Store and returns when all of it
// is durable. It asks the peers that candidates yields, at most maxActive at a
// time, the nearest first, and asks those that failed again after a while. It
// takes candidates as fast as they come.
//
// What the store holds already is not asked for. Fetch fails with an
// UnreachableError after req.Timeout without progress, with ctx's error, or with
// an error of the store or of the DAG itself. Blocks that arrived before stay. Its
// memory grows by about 100 bytes for each distinct block.
func (c *Client) Fetch(ctx context.Context, req Request, candidates <-chan Candidate) (Result, error) {
	return newFetch(c, req).run(ctx, candidates)
}

func newFetch(c *Client, req Request) *Fetch {
	f := &Fetch{
		client: c, request: req,
		arrivals:  make(chan arrival, 4),
		end:       make(chan struct{}),
		needed:    make(chan struct{}),
		seen:      make(map[cid.Cid]struct{}),
		wants:     make(map[*want]struct{}),
		sessions:  make(map[*session]struct{}),
		asked:     make(map[peer.ID]struct{}),
		providers: make(map[peer.ID]struct{}),
		gave:      make(map[peer.ID]struct{}),
		lastBlock: time.Now(),
	}
	f.changed = sync.NewCond(&f.mu)
	return f
}

func (f *Fetch) run(ctx context.Context, candidates <-chan Candidate) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { f.fail(context.Cause(ctx)) })
	defer stop()

	// Workers decode, verify and store, so that this costs each core rather than
	// the one that reads from a fast peer. What they write last is flushed after
	// the end, so their errors count even then.
	var workers errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error { return f.failing(f.work) })
	}
	workers.Go(func() error { return f.failing(f.expandAll) })
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
		Received: f.received.Load(),
		Peers:    len(f.gave),
	}
	if f.err != nil {
		err = f.err // the first one
	}
	f.mu.Unlock()
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

func (f *Fetch) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finish(err)
}

// watch reports progress and looks after the sessions until the fetch has ended.
func (f *Fetch) watch() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	swap := time.NewTicker(dropAfter)
	defer swap.Stop()
	for {
		select {
		case <-f.end:
			return
		case <-swap.C:
			f.mu.Lock()
			f.swapSlowest()
			f.mu.Unlock()
		case now := <-tick.C:
			f.mu.Lock()
			for s := range f.sessions {
				s.check(now)
			}
			f.endGame(now)
			f.changed.Broadcast() // some of what sessions wait for is that time passes
			if t := f.request.Timeout; t > 0 && now.Sub(f.lastBlock) > t {
				f.finish(&UnreachableError{
					Missing: len(f.wants), Waited: t, Providers: len(f.providers), Asked: len(f.asked),
				})
			}
			f.mu.Unlock()
			f.report()
		}
	}
}

// endGame offers what slow sessions owe to sessions that have nothing left to do,
// each want after a pause that doubles with the number of those who owe it. The
// caller holds mu.
func (f *Fetch) endGame(now time.Time) {
	idle := false
	for s := range f.sessions {
		idle = idle || s.idle() && !f.pool.has(s)
	}
	if !idle {
		return
	}
	for s := range f.sessions {
		for _, w := range s.owed {
			if now.Sub(w.asked) > max(stallAfter, 4*s.rtt)<<(len(w.owers)-1) {
				f.put(w.want)
			}
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
		if brought := n - s.swapSeen; brought < least && s.err == nil {
			slowest, least = s, brought
		}
		s.swapSeen = n
	}
	if f.crowded && len(f.sessions) >= maxActive {
		slowest.end(errSlowest)
	}
}

var errSlowest = errors.New("slowest while others wait")

// report calls the request's progress function, without mu, since it may block.
func (f *Fetch) report() {
	if f.request.Progress == nil {
		return
	}
	f.mu.Lock()
	p := f.progress
	p.Blocks = p.Known - len(f.wants)
	p.Received = f.received.Load()
	p.Peers, p.Providers, p.Asked = len(f.gave), len(f.providers), len(f.asked)
	f.mu.Unlock()
	f.request.Progress(p)
}

// work takes arrivals until the fetch has ended, and then makes what was written
// readable.
func (f *Fetch) work() error {
	w := f.request.Store.NewWriter()
	for {
		select {
		case <-f.end:
			return w.Flush()
		case a := <-f.arrivals:
			if err := f.take(w, a); err != nil {
				return errors.Join(err, w.Flush())
			}
		}
	}
}

// take verifies and stores the blocks of a DATA frame. An error is the store's or
// the DAG's; a peer's ends its session only.
func (f *Fetch) take(w *blockstore.Writer, a arrival) error {
	pieces, err := a.data.pieces(f.client.decoder)
	if err != nil {
		f.blame(a.session, a.wants, err)
		return nil
	}
	for i, want := range a.wants {
		data := pieces[i].bytes
		if pieces[i].delta {
			base, err := f.base(want)
			if err != nil {
				f.withoutBase(want.want)
				continue
			}
			if data, err = delta.Apply(nil, data, base, blockstore.MaxBlockSize); err != nil {
				f.blame(a.session, a.wants[i:], err)
				return nil
			}
		}
		b, err := blockstore.NewBlock(want.cid, data)
		if err != nil {
			f.blame(a.session, a.wants[i:], err)
			return nil
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		var links []dag.Link
		if !f.request.Single {
			if links, err = dag.Links(b); err != nil {
				return fmt.Errorf("%s is not part of a site: %w", want.cid, err)
			}
		}
		n := node{cid: want.cid, base: want.base, links: links}
		if len(links) > 0 && f.crammed() {
			n.links = nil
			if err := w.Flush(); err != nil {
				return err
			}
		}
		f.deliver(a.session, want.want, b, links, n)
	}
	return nil
}

// base returns the bytes of the base that d was asked for with; none has no bytes.
func (f *Fetch) base(d debt) ([]byte, error) {
	if !d.base.Defined() {
		return nil, nil
	}
	b, err := f.request.Store.Get(context.Background(), d.base)
	return b.Data(), err
}

// withoutBase asks again for a block the base of which is not held any more.
func (f *Fetch) withoutBase(w *want) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.base = cid.Undef
	f.put(w)
}

// blame ends the session of a peer that sent something wrong, keeps the peer away
// for a while, and lets others provide wants.
func (f *Fetch) blame(s *session, wants []debt, err error) {
	f.client.bans.add(s.peer)
	f.client.log.Warn("peer sent a bad block", "peer", s.peer, "err", err)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range wants {
		f.pool.put(d.want)
	}
	s.end(err)
}

// put offers a want to the sessions. The caller holds mu.
func (f *Fetch) put(w *want) {
	f.pool.put(w)
	f.changed.Broadcast()
}

// deliver marks want as done and queues what it links to. A block that came twice
// is ignored.
func (f *Fetch) deliver(s *session, w *want, b blockstore.Block, links []dag.Link, n node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.gave = true
	f.gave[s.peer] = struct{}{}
	f.lastBlock = time.Now()
	if w.done {
		return
	}
	w.done = true
	delete(f.wants, w)
	if len(f.wants) == maxKnown {
		f.changed.Broadcast() // the expander may go on
	}
	f.fetched += int64(len(b.Data()))
	f.countBlock(b, links)
	if len(links) > 0 {
		f.queue(n)
	}
	f.close()
}

// close takes one from the count of open things, and ends the fetch at the last.
// The caller holds mu.
func (f *Fetch) close() {
	if f.open--; f.open == 0 {
		f.finish(nil)
	}
}
