package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/node/api"
	"pollux/transport"
	"pollux/transport/exchange"
)

var _ api.Service = (*Node)(nil)

// Add implements api.Service.
func (n *Node) Add(ctx context.Context, req api.AddRequest, progress func(api.Progress)) (api.AddResult, error) {
	start := time.Now()
	if n.readOnly != nil {
		return api.AddResult{}, n.readOnly // before all files are read
	}
	path := string(req.Path)
	opts := dag.ImportOptions{Hidden: req.Hidden, AllowSecrets: req.AllowSecrets, Preserve: req.Preserve}
	if req.Chunker != "" {
		var err error
		if opts.Chunker, err = dag.ParseChunker(req.Chunker); err != nil {
			return api.AddResult{}, fmt.Errorf("%w: %w", api.ErrUsage, err)
		}
	}
	cached := cacheKey(path, opts)
	if !req.Rehash {
		opts.Cache = n.imports.get(cached)
	}
	if progress != nil {
		opts.Progress = func(p dag.Progress) {
			progress(api.Progress{Phase: "adding", Bytes: p.Bytes, TotalBytes: p.TotalBytes, Files: int64(p.Files)})
		}
	}
	// What is imported has no site above it until the end.
	hold := n.store.Hold()
	defer hold.Release()
	res, err := dag.Import(ctx, hold, path, opts)
	if errors.Is(err, dag.ErrSecret) {
		err = fmt.Errorf("%w; list what is not to be published in %s, or publish it with --allow-secrets", err, dag.IgnoreFile)
	}
	if err != nil {
		return api.AddResult{}, diskError(err)
	}
	// All that the import wrote or found is part of the tree.
	s := site{Root: res.Root, Path: path, Whole: true}
	s.Blocks, s.Bytes = hold.Kept()
	old, kept := n.sites.find(res.Root)
	if err := n.sites.put(s); err != nil {
		return api.AddResult{}, err
	}
	n.imports.put(cached, res.Cache)
	if !kept || !old.Whole { // else it is announced, or being announced
		n.background("announce", res.Root, func(ctx context.Context) error { return n.announce(ctx, res.Root) })
	}
	return api.AddResult{
		Root:     res.Root.String(),
		Files:    int64(res.Files + res.Symlinks),
		Blocks:   s.Blocks,
		Bytes:    res.Bytes,
		NewBytes: res.NewBytes,
		URL:      n.siteURL(res.Root),
		TookMS:   time.Since(start).Milliseconds(),
	}, nil
}

// background runs do while the node is open, and logs its failure.
func (n *Node) background(what string, root cid.Cid, do func(context.Context) error) {
	n.goWork(func() {
		if err := do(n.ctx); err != nil && n.ctx.Err() == nil {
			n.log.Error("background work failed", "work", what, "root", root, "err", err)
		}
	})
}

// Follow implements api.Service.
func (n *Node) Follow(ctx context.Context, req api.FollowRequest, progress func(api.Progress)) (api.FollowResult, error) {
	start := time.Now()
	target, err := parseRoot(req.Target, "followed")
	if err != nil {
		return api.FollowResult{}, err
	}
	s, ok := n.sites.find(target)
	if !ok {
		s = site{Root: target}
		if err := n.sites.put(s); err != nil {
			return api.FollowResult{}, err
		}
	}
	res := api.FollowResult{Root: target.String()}
	n.mu.Lock()
	running := n.running
	n.mu.Unlock()
	if !s.Whole && (running || req.Wait) {
		m := n.startMirror(target)
		if req.Wait {
			s, err = n.wait(ctx, m, req.Timeout, fetching(progress))
			if err != nil {
				if running && ctx.Err() == nil {
					err = fmt.Errorf("%w; the daemon goes on trying", err)
				}
				return api.FollowResult{}, err
			}
			res.Received, res.Peers = m.tally.Received(), int64(m.tally.Peers())
		}
	}
	res.Blocks, res.Bytes = s.Blocks, s.Bytes
	res.TookMS = time.Since(start).Milliseconds()
	return res, nil
}

// parseRoot parses a target without a path; done says what becomes of it.
func parseRoot(s, done string) (cid.Cid, error) {
	t, err := api.ParseTarget(s)
	if err == nil && t.Path != "" {
		err = fmt.Errorf("%w: %q has a path; whole sites are %s", api.ErrUsage, s, done)
	}
	return t.Root, err
}

// fetching translates progress.
func fetching(show func(api.Progress)) func(exchange.Progress) {
	if show == nil {
		return func(exchange.Progress) {}
	}
	return func(p exchange.Progress) {
		show(api.Progress{
			Phase: "fetching", Bytes: p.Bytes, TotalBytes: p.TotalBytes, HeldBytes: p.Held,
			Blocks: int64(p.Blocks), TotalBlocks: int64(p.Known), Received: p.Received, Peers: int64(p.Peers),
		})
	}
}

// Unfollow implements api.Service.
func (n *Node) Unfollow(ctx context.Context, target string) error {
	root, err := parseRoot(target, "followed")
	if err != nil {
		return err
	}
	if _, ok := n.sites.find(root); !ok {
		return fmt.Errorf("%w: %s is not followed; see `pollux status`", api.ErrUsage, root)
	}
	n.mu.Lock()
	m := n.mirrors[root]
	n.mu.Unlock()
	if m != nil {
		m.stop()
		<-m.done
	}
	if _, err := n.sites.remove(root); err != nil {
		return err
	}
	n.background("announce", root, n.reannounce)
	return nil
}

// Fetch implements api.Service.
func (n *Node) Fetch(ctx context.Context, req api.FetchRequest, progress func(api.Progress)) (api.FetchResult, error) {
	start := time.Now()
	target, err := api.ParseTarget(string(req.Target))
	if err != nil {
		return api.FetchResult{}, err
	}
	tally := new(exchange.Tally)
	entry, err := dag.Resolve(ctx, getter{n, req.Timeout, tally}, target.Root, target.Path)
	if err != nil {
		return api.FetchResult{}, err
	}
	res := api.FetchResult{CID: entry.CID.String(), Root: target.Root.String()}
	s, err := n.measure(ctx, entry.CID)
	if isMissing(err) {
		if err = n.fetch(ctx, entry.CID, req.Timeout, tally, progress); err != nil {
			return api.FetchResult{}, err
		}
		s, err = n.measure(ctx, entry.CID)
	}
	if err != nil {
		return api.FetchResult{}, err
	}
	res.Blocks, res.Bytes = s.Blocks, s.Bytes
	res.Received, res.Peers = tally.Received(), int64(tally.Peers())
	res.TookMS = time.Since(start).Milliseconds()
	return res, nil
}

// fetch makes a DAG whole, and counts what that took. If it is being mirrored already, it
// waits for that.
func (n *Node) fetch(ctx context.Context, root cid.Cid, timeout time.Duration, tally *exchange.Tally, progress func(api.Progress)) error {
	n.mu.Lock()
	m := n.mirrors[root]
	n.mu.Unlock()
	if m != nil {
		defer tally.Add(&m.tally)
		_, err := n.wait(ctx, m, timeout, fetching(progress))
		return err
	}
	net, err := n.network()
	if err != nil {
		return err
	}
	return n.fetchFrom(ctx, net, exchange.Request{Root: root, Timeout: timeout, Tally: tally, Progress: fetching(progress)})
}

// fetchFrom fetches into the store.
func (n *Node) fetchFrom(ctx context.Context, net *transport.Network, req exchange.Request) error {
	hold := n.store.Hold()
	defer hold.Release()
	req.Store = hold
	req.Bases = n.bases()
	_, err := net.Fetch(ctx, req)
	return n.fetchError(net, err)
}

// fetchError makes an error for want of peers, or of room on the disk, the API's.
func (n *Node) fetchError(net *transport.Network, err error) error {
	if e, ok := errors.AsType[*exchange.UnreachableError](err); ok {
		err = unreachable(net, e)
	}
	return diskError(err)
}

// bases returns the roots of the sites that are held whole, the newest first: what is
// fetched may be the next version of one.
func (n *Node) bases() []cid.Cid {
	var roots []cid.Cid
	for _, s := range slices.Backward(n.sites.all()) {
		if s.Whole {
			roots = append(roots, s.Root)
		}
	}
	return roots
}

// diskError says what to do about an error of the store, and makes one for want of disk
// space the API's.
func diskError(err error) error {
	switch {
	case errors.Is(err, blockstore.ErrReadOnly):
		return fmt.Errorf("%w; look at the disk, and try again: when it works, so does this", err)
	case errors.Is(err, blockstore.ErrQuota):
		return fmt.Errorf("%w: %w; unfollow a site and run `pollux gc`, or raise disk or lower min_free in config.toml", api.ErrQuota, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w; make room on the disk, or unfollow a site and run `pollux gc`", api.ErrQuota, err)
	}
	return err
}

// unreachable makes err the API's: errors.Is finds api.ErrUnreachable. It says what to do,
// unless err does.
func unreachable(net *transport.Network, err *exchange.UnreachableError) error {
	switch {
	case net != nil && !net.Online() && net.Connections() > 0:
		return fmt.Errorf("%w: %w; only connected peers were asked: no member of the DHT is reachable, name one with --bootstrap", api.ErrUnreachable, err)
	case net != nil && !net.Online():
		return fmt.Errorf("%w: %w; no member of the network is reachable yet: check the connection, or name one with --bootstrap", api.ErrUnreachable, err)
	}
	if err.Limit != nil {
		return fmt.Errorf("%w: %w", api.ErrUnreachable, err)
	}
	return fmt.Errorf("%w: %w; is a mirror running? see `pollux mirrors TARGET` and `pollux peers`", api.ErrUnreachable, err)
}

// Block implements api.Service.
func (n *Node) Block(ctx context.Context, c cid.Cid, timeout time.Duration) (blockstore.Block, error) {
	return getter{node: n, timeout: timeout}.Get(ctx, c)
}

// isMissing says whether err is about a block that has to come from elsewhere.
func isMissing(err error) bool {
	return errors.Is(err, blockstore.ErrNotFound) || errors.Is(err, blockstore.ErrCorrupt)
}

// getter reads blocks from the store or else from the network.
type getter struct {
	node    *Node
	timeout time.Duration
	tally   *exchange.Tally // nil if it does not matter what that takes
}

func (g getter) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	n := g.node
	b, err := n.store.Get(ctx, c)
	if !isMissing(err) {
		return b, err
	}
	if err := n.lookUp(ctx, c, g.timeout, g.tally); err != nil {
		return blockstore.Block{}, err
	}
	return n.store.Get(ctx, c)
}

// Status implements api.Service.
func (n *Node) Status(ctx context.Context) (api.Status, error) {
	st := n.store.Stats()
	status := api.Status{
		Reachability: "unknown",
		Addrs:        []string{},
		Sites:        []api.Site{},
		Store:        api.StoreStatus{Blocks: int64(st.Blocks), Bytes: st.Bytes, DiskBytes: st.DiskBytes, QuotaBytes: int64(n.cfg.Disk), QuarantinedBytes: st.QuarantinedBytes},
		Announce:     api.AnnounceStatus{Strategy: n.cfg.Announce.String()},
		Limits:       api.Limits{DiskBytes: int64(n.cfg.Disk), MemoryBytes: transport.MemoryLimit, Connections: int64(n.cfg.ConnectionsHigh)},
	}
	if err := n.ReadOnly(); err != nil {
		status.Store.ReadOnly = err.Error()
	}
	id, err := n.ID(ctx)
	if err != nil {
		return api.Status{}, err
	}
	status.Peer, status.Addrs = id.Peer, id.Addrs
	for _, s := range n.sites.all() {
		status.Sites = append(status.Sites, n.siteStatus(s))
	}
	net := n.online()
	if net == nil {
		return status, nil
	}
	status.Connections = net.Connections()
	status.Reachability = net.Reachability()
	status.Traffic.Sent, status.Traffic.Received = net.Traffic()
	announced, err := net.Announced(ctx)
	if err != nil {
		return api.Status{}, err
	}
	status.Announce.Keys, status.Announce.Queued = int64(announced.Keys), int64(announced.Queued)
	status.Announce.Announced = int64(announced.Announced)
	return status, nil
}

func (n *Node) siteStatus(s site) api.Site {
	out := api.Site{
		Target: s.Root.String(), Root: s.Root.String(), Name: s.Path,
		Blocks: s.Blocks, Bytes: s.Bytes, State: api.StateWhole,
	}
	if s.Whole {
		return out
	}
	out.State, out.MissingBlocks = api.StateWaiting, 1 // the root at least
	n.mu.Lock()
	m := n.mirrors[s.Root]
	n.mu.Unlock()
	if m == nil {
		return out
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		out.Error = m.failed.Error()
	}
	if p := m.progress; p.Known > 0 {
		out.Blocks, out.Bytes, out.MissingBlocks = int64(p.Known), p.Bytes, int64(p.Known-p.Blocks)
		if p.Peers > 0 {
			out.State = api.StateFetching
		}
	}
	return out
}

// Peers implements api.Service.
func (n *Node) Peers(context.Context) ([]api.Peer, error) {
	net := n.online()
	if net == nil {
		return nil, n.noDaemon()
	}
	peers := []api.Peer{}
	for _, p := range net.Peers() {
		peers = append(peers, apiPeer(p))
	}
	return peers, nil
}

// Connect implements api.Service.
func (n *Node) Connect(ctx context.Context, addr string) (api.Peer, error) {
	net := n.online()
	if net == nil {
		return api.Peer{}, n.noDaemon()
	}
	p, err := net.Connect(ctx, addr)
	switch {
	case errors.Is(err, transport.ErrBadAddress):
		return api.Peer{}, fmt.Errorf("%w: %w; `pollux id` prints it on that node", api.ErrUsage, err)
	case err != nil && ctx.Err() == nil:
		return api.Peer{}, fmt.Errorf("%w: %w; does it run, and at that address? `pollux id` prints it on that node", api.ErrUnreachable, err)
	}
	return apiPeer(p), err
}

func (n *Node) noDaemon() error {
	return fmt.Errorf("%w on %s; start one with `pollux daemon`", api.ErrNoDaemon, n.dir)
}

func apiPeer(p transport.Peer) api.Peer {
	out := api.Peer{
		Peer: p.ID, Addrs: p.Addrs, Direction: "outbound", Agent: p.Agent,
		RTTMS: float64(p.RTT.Microseconds()) / 1000,
	}
	if p.Inbound {
		out.Direction = "inbound"
	}
	return out
}

// ID implements api.Service.
func (n *Node) ID(context.Context) (api.Identity, error) {
	if net := n.online(); net != nil {
		return api.Identity{Peer: net.ID(), Addrs: net.Addrs()}, nil
	}
	if n.readOnly != nil && !n.hasKey() {
		return api.Identity{Addrs: []string{}}, nil
	}
	id, err := transport.PeerID(filepath.Join(n.dir, keyFile))
	return api.Identity{Peer: id, Addrs: []string{}}, err
}
