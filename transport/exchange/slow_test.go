package exchange

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"pollux/blockstore"
	"pollux/dag"
)

// TestTrickling has a provider send a little at a time, so that its session does not end: for
// leaves, for the nodes in one frame, and for one node after the other. What it owes comes
// from another, and nobody is blamed.
func TestTrickling(t *testing.T) {
	oneByOne := func(a *actor, l list) (frames []byte) {
		pieces, full, last := a.listed(l)
		for i := range pieces {
			b := a.enc.body(pieces[i:][:1], levelFast)
			frames = appendIndex(frames, l.from+i, full, last && i == len(pieces)-1, b)
		}
		return frames
	}
	for _, tc := range []struct {
		name string
		site []blockstore.Block
		script
	}{
		{"leaves", newTree(71, 60, 10).blocks, script{want: (*actor).leaves}},
		{"nodes", newTree(71, 60, 10).blocks, script{list: (*actor).nodes}},
		// The first, which has many links, takes longer than anybody waits for it.
		{"nodes one by one", newTree(71, 60, 10).blocks, script{list: oneByOne}},
		// Each of these takes less.
		{"nodes in a chain", chain(120), script{list: oneByOne}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.slow = true
			root := tc.site[0].CID()
			seed, mirror := newNode(t, tc.site...), newNode(t)
			evil := newActor(t, tc.script, root, cid.Undef, tc.site...)
			ctx := limit(t)
			candidates := evil.before(ctx, seed)
			req := Request{Store: mirror.store, Root: root}
			if _, err := mirror.client.Fetch(ctx, req, candidates); err != nil {
				t.Fatal(err)
			}
			mirror.checkHeld(t, tc.site)
			if n := evil.sent.Load(); n > size(tc.site)/2 {
				t.Errorf("%d bytes of %d came from the slow one", n, size(tc.site))
			}
			if mirror.client.bans.has(evil.ID()) || mirror.client.bans.has(seed.ID()) {
				t.Error("somebody is banned")
			}
		})
	}
}

// chain is n nodes, each of which has the next, and a page.
func chain(n int) (blocks []blockstore.Block) {
	for i := range n {
		page := raw(fmt.Sprint("page ", i))
		links := []dag.Link{{Name: "page", CID: page.CID(), Size: uint64(len(page.Data()))}}
		if i > 0 {
			links = append(links, dag.Link{Name: "next", CID: blocks[1].CID(), Size: 1})
		}
		node := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
		blocks = append([]blockstore.Block{page, node}, blocks...)
	}
	blocks[0], blocks[1] = blocks[1], blocks[0] // the root comes first
	return blocks
}

// TestStoppedSeed stops a seed while it sends, and lets it go on when another has brought all
// that it holds. What that lacks comes from the seed after all.
func TestStoppedSeed(t *testing.T) {
	t.Parallel()
	site := newTree(72, 10, 40)
	var part []blockstore.Block
	for i, b := range site.blocks {
		if b.CID().Type() != cid.Raw || i%2 == 0 {
			part = append(part, b)
		}
	}
	seed, other, mirror := newNode(t, site.blocks...), newNode(t, part...), newNode(t)
	l := newLink(t, 0)
	l.stopAt = 200 << 10
	ctx := limit(t)
	candidates := make(chan Candidate, 2)
	candidates <- Candidate{l.to(t, seed), true}
	go func() {
		select {
		case <-l.stopped:
		case <-ctx.Done():
		}
		candidates <- Candidate{other.info(), true}
	}()
	brought := func() bool {
		for _, b := range part {
			if ok, err := mirror.store.Has(b.CID()); err != nil || !ok {
				return false
			}
		}
		return true
	}
	var before int64
	_, err := mirror.client.Fetch(ctx, Request{Store: mirror.store, Root: site.root(), Progress: func(Progress) {
		if before == 0 && brought() {
			before = l.from.Load()
			l.resume()
		}
	}}, candidates)
	if err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	if n := l.from.Load(); before == 0 || n <= before {
		t.Errorf("%d bytes had come from the seed before it went on, and %d at the end", before, n)
	}
	if mirror.client.bans.has(seed.ID()) || mirror.client.bans.has(other.ID()) {
		t.Error("somebody is banned")
	}
}

// TestStoppedAlone stops the only seed until the fetch has noticed. It goes on over the same
// stream.
func TestStoppedAlone(t *testing.T) {
	t.Parallel()
	site := newTree(73, 10, 40)
	seed, mirror := newNode(t, site.blocks...), newNode(t)
	l := newLink(t, 0)
	l.stopAt = 200 << 10
	candidates := make(chan Candidate, 1)
	candidates <- Candidate{l.to(t, seed), true}
	var f *Fetch
	var once sync.Once
	used := make(map[*session]struct{})
	f = newFetch(mirror.client, Request{Store: mirror.store, Root: site.root(), Progress: func(Progress) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for s := range f.sessions {
			used[s] = struct{}{}
			if s.stalled {
				once.Do(l.resume)
			}
		}
	}})
	if _, err := f.run(limit(t), candidates); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	if once.Do(func() { t.Error("the stop was not noticed") }); len(used) != 1 {
		t.Errorf("the seed was asked over %d streams", len(used))
	}
}

// TestCrowdOfDistances has a crowd of mirrors to which it takes from no time to 200 ms and
// back. All become whole, also of what others of them pass on.
func TestCrowdOfDistances(t *testing.T) {
	t.Parallel()
	site := newTree(74, 10, 40)
	seed := newNode(t, site.blocks...)
	var mirrors []*node
	var tasks sync.WaitGroup
	var mu sync.Mutex
	gave := 0
	for _, delay := range []time.Duration{0, 5, 20, 50, 100} {
		delay *= time.Millisecond
		// Others see the mirror, and it sees the seed, over a line of its own.
		own, line := newLink(t, delay), newLink(t, delay)
		h := newHost(t, libp2p.AddrsFactory(func([]ma.Multiaddr) []ma.Multiaddr {
			return []ma.Multiaddr{own.addr()}
		}))
		own.to(t, h)
		store := newStore(t)
		m := nodeOn(t, h, store, store)
		mirrors = append(mirrors, m)
		from := line.to(t, seed.Host)
		tasks.Go(func() {
			res, err := m.fetch(limit(t), Request{Root: site.root()}, from)
			if err != nil {
				t.Error(err)
				return
			}
			if rtt := m.Peerstore().LatencyEWMA(seed.ID()); rtt < 2*delay {
				t.Errorf("round trip of %v over a line of %v", rtt, delay)
			}
			mu.Lock()
			defer mu.Unlock()
			gave += res.Peers
		})
	}
	tasks.Wait()
	ids := []peer.ID{seed.ID()}
	for _, m := range mirrors {
		m.checkHeld(t, site.blocks)
		ids = append(ids, m.ID())
	}
	for _, m := range mirrors {
		for _, id := range ids {
			if m.client.bans.has(id) {
				t.Error("somebody is banned")
			}
		}
	}
	if gave <= len(mirrors) {
		t.Error("nothing was passed on")
	}
}

// TestLateAnswers fetches from a provider that takes longer to answer than one that is silent is
// waited for. It is used all the same, over one stream.
func TestLateAnswers(t *testing.T) {
	t.Parallel()
	site := newTree(500, 3, 100)
	late := func() { time.Sleep(2 * stallAfter) }
	for name, s := range map[string]script{
		"OPEN": {open: func(a *actor, o open) []byte { late(); return a.opens(o) }},
		"LIST": {list: func(a *actor, l list) []byte { late(); return a.nodes(l) }},
		"WANT": {want: func(a *actor, w []span) []byte { late(); return a.leaves(w) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, mirror := newActor(t, s, site.root(), cid.Undef, site.blocks...), newNode(t)
			if _, err := mirror.fetch(limit(t), Request{Root: site.root()}, a.info()); err != nil {
				t.Fatal(err)
			}
			if n := a.streams.Load(); n != 1 {
				t.Errorf("it took %d streams", n)
			}
		})
	}
}
