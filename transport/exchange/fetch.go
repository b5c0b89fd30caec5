package exchange

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/dag"
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
	Root cid.Cid
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
	CID       cid.Cid       // one that is missing
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
	wants   []*want
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
	changed   *sync.Cond // broadcast whenever a session may have to act
	pool      pool
	open      int // wants not done, and expansions under way
	wants     map[*want]struct{}
	sessions  map[*session]struct{}
	asked     map[peer.ID]struct{}
	providers map[peer.ID]struct{}
	gave      map[peer.ID]struct{}
	progress  Progress
	result    Result
	lastBlock time.Time
	isEnded   bool
	err       error
}

// Client fetches DAGs from other nodes.
type Client struct {
	host    host.Host
	store   Store
	log     *slog.Logger
	decoder *zstd.Decoder
	bans    *bans
}

// NewClient returns a Client that fetches into store.
func NewClient(h host.Host, store Store, log *slog.Logger) (*Client, error) {
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	return &Client{host: h, store: store, log: log, decoder: dec, bans: newBans()}, nil
}

// Fetch brings the DAG below req.Root into the store and returns when all of it
// is durable. It asks the peers that candidates yields, at most maxActive at a
// time, the nearest first, and asks those that failed again after a while.
// What the store holds already is not asked for. It fails with an
// UnreachableError after req.Timeout without progress, with ctx's error, or with
// an error of the store or of the DAG itself. Blocks that arrived before stay.
func (c *Client) Fetch(ctx context.Context, req Request, candidates <-chan Candidate) (Result, error) {
	f := &Fetch{
		client: c, request: req,
		arrivals:  make(chan arrival, 4),
		end:       make(chan struct{}),
		needed:    make(chan struct{}),
		pool:      newPool(),
		wants:     make(map[*want]struct{}),
		sessions:  make(map[*session]struct{}),
		asked:     make(map[peer.ID]struct{}),
		providers: make(map[peer.ID]struct{}),
		gave:      make(map[peer.ID]struct{}),
		lastBlock: time.Now(),
	}
	f.changed = sync.NewCond(&f.mu)
	f.open = 1 // the expansion of the root
	return f.run(ctx, candidates)
}

func (f *Fetch) run(ctx context.Context, candidates <-chan Candidate) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { f.fail(context.Cause(ctx)) })
	defer stop()

	// Workers decode, verify, store and expand, so that this costs each core
	// rather than the one that reads from a fast peer.
	var workers, peers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			if err := f.guard(f.work); err != nil {
				f.fail(err)
			}
		})
	}
	workers.Go(func() {
		root := []dag.Link{{CID: f.request.Root, Size: f.request.Size}}
		if err := f.guard(func() error { return f.expand(root) }); err != nil {
			f.fail(err)
		}
	})
	peers.Go(func() {
		select {
		case <-f.end:
		case <-f.needed:
			f.recruit(ctx, candidates, &peers)
		}
	})
	f.watch()
	cancel()
	peers.Wait()
	workers.Wait()

	f.mu.Lock()
	defer f.mu.Unlock()
	f.result.Received = f.received.Load()
	f.result.Peers = len(f.gave)
	f.result.Blocks = len(f.pool.seen)
	if f.err != nil {
		return f.result, f.err
	}
	if err := f.client.store.Sync(); err != nil {
		return f.result, err
	}
	f.report()
	return f.result, nil
}

// guard turns a panic in code that handles a stranger's bytes into an error.
func (f *Fetch) guard(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			f.client.log.Error("panic while fetching", "root", f.request.Root, "panic", r)
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return do()
}

func (f *Fetch) ended() bool { return f.isEnded }

// finish ends the fetch; a nil err means that all is there. The caller holds mu.
func (f *Fetch) finish(err error) {
	if f.isEnded {
		return
	}
	f.isEnded, f.err = true, err
	close(f.end)
	f.changed.Broadcast()
}

func (f *Fetch) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finish(err)
}

// watch reports progress and looks for stalls until the fetch has ended.
func (f *Fetch) watch() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-f.end:
			return
		case now := <-tick.C:
			f.mu.Lock()
			for s := range f.sessions {
				s.check(now)
			}
			if t := f.request.Timeout; t > 0 && now.Sub(f.lastBlock) > t {
				f.finish(f.unreachable(t))
			}
			f.report()
			f.mu.Unlock()
		}
	}
}

func (f *Fetch) unreachable(waited time.Duration) error {
	e := &UnreachableError{
		CID: f.request.Root, Missing: len(f.wants), Waited: waited,
		Providers: len(f.providers), Asked: len(f.asked),
	}
	for w := range f.wants {
		e.CID = w.cid
		break
	}
	return e
}

func (f *Fetch) report() {
	if f.request.Progress == nil {
		return
	}
	p := f.progress
	p.Known = len(f.pool.seen)
	p.Blocks = p.Known - len(f.wants)
	p.Received = f.received.Load()
	p.Peers, p.Providers, p.Asked = len(f.gave), len(f.providers), len(f.asked)
	f.request.Progress(p)
}

// work takes arrivals until the fetch has ended. What was written is flushed
// then, so that it is not fetched again.
func (f *Fetch) work() error {
	w := f.client.store.NewWriter()
	defer func() {
		if err := w.Flush(); err != nil {
			f.fail(err)
		}
	}()
	for {
		select {
		case <-f.end:
			return nil
		case a := <-f.arrivals:
			if err := f.take(w, a); err != nil {
				return err
			}
		}
	}
}

// take verifies and stores the blocks of a DATA frame. An error is the store's or
// the DAG's; a peer's ends its session only.
func (f *Fetch) take(w *blockstore.Writer, a arrival) error {
	datas, err := a.data.blocks(f.client.decoder)
	if err != nil {
		f.blame(a.session, a.wants, err)
		return nil
	}
	for i, want := range a.wants {
		b, err := blockstore.NewBlock(want.cid, datas[i])
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
		if !f.deliver(a.session, want, b, links) {
			continue
		}
		if err := f.expand(links); err != nil {
			return err
		}
	}
	return nil
}

// blame ends the session of a peer that sent something wrong, keeps the peer away
// for a while, and lets others provide wants.
func (f *Fetch) blame(s *session, wants []*want, err error) {
	f.client.bans.add(s.peer)
	f.client.log.Warn("peer sent a bad block", "peer", s.peer, "err", err)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range wants {
		f.pool.put(w)
	}
	s.end(err)
}

// deliver marks want as done, and counts the links below it as an expansion under
// way. It returns false if the block came twice.
func (f *Fetch) deliver(s *session, w *want, b blockstore.Block, links []dag.Link) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gave[s.peer] = struct{}{}
	f.lastBlock = time.Now()
	if w.done {
		return false
	}
	w.done = true
	delete(f.wants, w)
	f.open++ // the expansion, which begins before the want ends
	f.close()
	f.result.Bytes += int64(len(b.Data()))
	f.countBlock(b, links)
	return true
}

// countBlock adds a block to the progress. The caller holds mu.
func (f *Fetch) countBlock(b blockstore.Block, links []dag.Link) {
	f.progress.Bytes += int64(len(b.Data()))
	if b.CID().Equals(f.request.Root) {
		f.progress.TotalBytes = int64(len(b.Data()))
		for _, l := range links {
			f.progress.TotalBytes = addSizes(f.progress.TotalBytes, l.Size)
		}
	}
}

// close takes one from the count of open things, and ends the fetch at the last.
// The caller holds mu.
func (f *Fetch) close() {
	if f.open--; f.open == 0 {
		f.finish(nil)
	}
}

// expand goes through links, in order: what the store lacks becomes a want, what
// it holds is expanded in turn. It ends one open expansion. It owns links.
func (f *Fetch) expand(links []dag.Link) error {
	stack := links
	slices.Reverse(stack)
	for len(stack) > 0 {
		l := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		fresh, ended := f.meet(l)
		if ended {
			return nil
		}
		if !fresh {
			continue
		}
		if err := blockstore.CheckCID(l.CID); err != nil {
			return err
		}
		held, err := f.client.store.Has(l.CID)
		switch {
		case err != nil:
			return err
		case !held:
			f.want(l)
			continue
		case f.request.Single || l.CID.Prefix().Codec == cid.Raw:
			f.mu.Lock()
			f.progress.Bytes = addSizes(f.progress.Bytes, l.Size)
			f.mu.Unlock()
			continue
		}
		b, err := f.client.store.Get(context.Background(), l.CID)
		if errors.Is(err, blockstore.ErrCorrupt) {
			f.want(l)
			continue
		}
		if err != nil {
			return err
		}
		below, err := dag.Links(b)
		if err != nil {
			return fmt.Errorf("%s is not part of a site: %w", l.CID, err)
		}
		f.mu.Lock()
		f.countBlock(b, below)
		f.mu.Unlock()
		slices.Reverse(below)
		stack = append(stack, below...)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.close()
	f.changed.Broadcast()
	return nil
}

// meet says whether l is met for the first time, and whether the fetch has ended.
// What a repeated link leads to counts as held: a tree's size counts it each time.
func (f *Fetch) meet(l dag.Link) (fresh, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fresh = f.pool.see(l.CID); !fresh {
		f.progress.Bytes = addSizes(f.progress.Bytes, l.Size)
	}
	return fresh, f.isEnded
}

func (f *Fetch) want(l dag.Link) {
	w := newWant(l)
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.needed:
	default:
		close(f.needed)
	}
	f.open++
	f.wants[w] = struct{}{}
	f.pool.put(w)
	if len(f.pool.nodes)+len(f.pool.rest) == 1 {
		f.changed.Broadcast() // else those who wait for wants are on their way
	}
}
