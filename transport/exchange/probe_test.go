package exchange

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// stranger is a host whose streams do whatever a test wants.
func stranger(t *testing.T, do func(network.Stream)) host.Host {
	t.Helper()
	h := newHost(t)
	h.SetStreamHandler(Protocol, func(st network.Stream) {
		defer st.Reset()
		do(st)
	})
	return h
}

// read reads until the other side ends the stream.
func read(st network.Stream) { io.Copy(io.Discard, st) }

// liar is a host that says HELLO and answers each request with what reply returns, nothing
// if that is empty.
func liar(t *testing.T, reply func(frameType, []byte) []byte) host.Host {
	return stranger(t, func(st network.Stream) {
		st.Write(appendFrame(nil, frameHello))
		for r := bufio.NewReader(st); ; {
			typ, body, err := readFrame(r, maxRequest)
			if err != nil {
				return
			}
			if _, err := st.Write(reply(typ, body)); err != nil {
				return
			}
		}
	})
}

// answers makes frames as a Server with these blocks does.
type answers struct {
	t      *testing.T
	site   tree
	order  *order
	blocks map[cid.Cid]blockstore.Block
	enc    *encoder
}

func newAnswers(t *testing.T, site tree) *answers {
	t.Helper()
	a := &answers{t: t, site: site, blocks: make(map[cid.Cid]blockstore.Block)}
	for _, b := range site.blocks {
		a.blocks[b.CID()] = b
	}
	var err error
	if a.order, err = buildOrder(t.Context(), newNode(t, site.blocks...).store, site.root(), cid.Undef); err != nil {
		t.Fatal(err)
	}
	if a.enc, err = newEncoder(); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *answers) body(blocks ...blockstore.Block) body {
	var pieces []piece
	for _, b := range blocks {
		if b.CID().Defined() {
			pieces = append(pieces, piece{kind: kindBlock, bytes: b.Data()})
		} else {
			pieces = append(pieces, piece{kind: kindMissing})
		}
	}
	return a.enc.body(pieces, levelFast)
}

// honest answers a request.
func (a *answers) honest(typ frameType, req []byte) (frame []byte) {
	switch typ {
	case frameOpen:
		return appendHave(appendOpened(nil, opened{status: statusOpen}), true, nil)
	case frameGet:
		cids, err := parseGet(req)
		if err != nil {
			a.t.Error(err)
		}
		var blocks []blockstore.Block
		for _, c := range cids {
			blocks = append(blocks, a.blocks[c])
		}
		return appendBlocks(nil, a.body(blocks...))
	case frameWant:
		for _, i := range wanted(a.t, req) {
			frame = appendData(frame, i, a.body(a.blocks[a.order.leaves.at(i)]))
		}
	}
	return frame
}

func wanted(t *testing.T, req []byte) (leaves []int) {
	spans, err := parseSpanFrame(req)
	if err != nil {
		t.Error(err)
	}
	for _, s := range spans {
		for i := s.first; i < s.end(); i++ {
			leaves = append(leaves, i)
		}
	}
	return leaves
}

func TestProbe(t *testing.T) {
	site := newTree(20, 8, 25)
	a := newAnswers(t, site)
	prober := newNode(t)
	half := nodesOf(site.blocks)
	for i := range a.order.leaves.len() / 2 {
		half = append(half, a.blocks[a.order.leaves.at(i)])
	}
	server := func(blocks ...blockstore.Block) host.Host { return newNode(t, blocks...).Host }
	but := func(typ frameType, instead func(req []byte) []byte) host.Host {
		return liar(t, func(got frameType, req []byte) []byte {
			if got == typ {
				return instead(req)
			}
			return a.honest(got, req)
		})
	}
	unreachable := newHost(t)
	gone := peer.AddrInfo{ID: unreachable.ID(), Addrs: unreachable.Addrs()}
	if err := unreachable.Close(); err != nil {
		t.Fatal(err)
	}
	// Of whoever is silent the prober gives up at once here, rather than after a while.
	var giveUp atomic.Pointer[func()]
	mute := func([]byte) []byte {
		(*giveUp.Load())()
		return nil
	}
	for _, tc := range []struct {
		name   string
		host   host.Host
		want   Standing
		share  float64
		banned bool
		leaves int // that come before a silent one is given up on
	}{
		{name: "full", host: server(site.blocks...), want: Full, share: 1},
		{name: "full, by another implementation", host: liar(t, a.honest), want: Full, share: 1},
		{name: "half", host: server(half...), want: Partial, share: 0.5},
		{name: "nodes alone", host: server(nodesOf(site.blocks)...), want: Partial},
		{name: "the root alone", host: server(site.blocks[0]), want: Partial},
		{name: "nothing", host: server(), want: Absent},
		{name: "leaves alone", host: server(site.blocks[2:20]...), want: Absent},
		{name: "MISS for all", want: Partial, host: but(frameWant, func(req []byte) []byte {
			return appendFrame(nil, frameMiss, req)
		})},
		{name: "MISS for half", want: Partial, share: 0.5, host: func() host.Host {
			var mu sync.Mutex
			n := 0
			return but(frameWant, func(req []byte) []byte {
				mu.Lock()
				defer mu.Unlock()
				if n++; n%2 == 0 {
					return a.honest(frameWant, req)
				}
				return appendFrame(nil, frameMiss, req)
			})
		}()},
		{name: "another leaf", banned: true, host: but(frameWant, func(req []byte) []byte {
			return appendData(nil, wanted(t, req)[0], a.body(site.blocks[0]))
		})},
		{name: "another node", banned: true, host: but(frameGet, func(req []byte) []byte {
			cids, _ := parseGet(req)
			return appendBlocks(nil, a.body(slices.Repeat(site.blocks[1:2], len(cids))...))
		})},
		{name: "no node", want: Partial, share: 1, host: but(frameGet, func(req []byte) []byte {
			cids, _ := parseGet(req)
			return appendBlocks(nil, a.body(make([]blockstore.Block, len(cids))...))
		})},
		{name: "broken compression", banned: true, host: but(frameWant, func(req []byte) []byte {
			return appendData(nil, wanted(t, req)[0], body{count: 1, encoding: encodingZstd, raw: 10, payload: []byte("nonsense")})
		})},
		{name: "a leaf that nobody asked for", want: Partial, share: -1, host: but(frameWant, func(req []byte) []byte {
			i := (wanted(t, req)[0] + 1) % a.order.leaves.len()
			return append(appendData(nil, i, a.body(a.blocks[a.order.leaves.at(i)])), appendData(nil, i, a.body(a.blocks[a.order.leaves.at(i)]))...)
		})},
		{name: "silent from the start", host: stranger(t, func(st network.Stream) {
			mute(nil)
			read(st)
		})},
		{name: "silent after HELLO", host: liar(t, func(_ frameType, req []byte) []byte { return mute(req) })},
		{name: "silent when leaves are asked for", want: Partial, host: but(frameWant, mute)},
		{name: "silent when nodes are asked for", want: Partial, share: 1, leaves: probeLeaves, host: but(frameGet, mute)},
		{name: "closed at once", host: stranger(t, func(network.Stream) {})},
		{name: "closed after HELLO", host: stranger(t, func(st network.Stream) { st.Write(appendFrame(nil, frameHello)); st.CloseWrite(); read(st) })},
		{name: "no HELLO", host: stranger(t, func(st network.Stream) {
			st.Write(a.honest(frameOpen, nil))
			read(st)
		})},
		{name: "busy, and full", want: Full, share: 1, host: but(frameOpen, func([]byte) []byte { return appendBusy(nil, time.Second) })},
		{name: "busy, and half", want: Partial, share: -1, host: func() host.Host {
			halves := newAnswers(t, site)
			clear(halves.blocks)
			for _, b := range half {
				halves.blocks[b.CID()] = b
			}
			return liar(t, func(typ frameType, req []byte) []byte {
				if typ == frameOpen {
					return appendBusy(nil, time.Second)
				}
				return halves.honest(typ, req)
			})
		}()},
		{name: "busy, and nothing", want: Absent, host: liar(t, func(typ frameType, req []byte) []byte {
			switch typ {
			case frameOpen:
				return appendBusy(nil, time.Second)
			case frameGet:
				cids, _ := parseGet(req)
				return appendBlocks(nil, a.body(make([]blockstore.Block, len(cids))...))
			}
			return nil
		})},
		{name: "another protocol", host: newHost(t)},
		{name: "gone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			info := gone
			if tc.host != nil {
				info = peer.AddrInfo{ID: tc.host.ID(), Addrs: tc.host.Addrs()}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			silent := func() {
				if tc.leaves == 0 {
					cancel()
				}
			}
			giveUp.Store(&silent)
			came := 0
			got := prober.client.probe(ctx, info, site.root(), a.order, func() {
				if came++; came == tc.leaves {
					cancel()
				}
			}).result()
			if got.Standing != tc.want {
				t.Errorf("standing %d, want %d", got.Standing, tc.want)
			}
			if tc.share >= 0 && (got.Share < tc.share-0.01 || got.Share > tc.share+0.01) || got.Share == 1 && tc.share < 0 {
				t.Errorf("share %v, want %v", got.Share, tc.share)
			}
			if (got.RTT > 0) != (got.Standing != Unreachable) {
				t.Errorf("standing %d with a round trip of %v", got.Standing, got.RTT)
			}
			if banned := prober.client.bans.has(info.ID); banned != tc.banned {
				t.Errorf("banned: %v", banned)
			}
			if got.Peer.ID != info.ID || got.Standing != Unreachable && !slices.ContainsFunc(got.Peer.Addrs, info.Addrs[0].Equal) {
				t.Errorf("%v at %v", got.Peer.ID, got.Peer.Addrs)
			}
			if tc.banned {
				if again := prober.client.probe(t.Context(), info, site.root(), a.order, func() {}).result(); again.Standing != Unreachable {
					t.Errorf("standing %d the second time", again.Standing)
				}
			}
		})
	}
}

// TestProbeKinds probes for DAGs of unusual shapes, of which the peer holds all.
func TestProbeKinds(t *testing.T) {
	prober := newNode(t)
	leaf := blockstore.Sum(cid.Raw, []byte("leaf"))
	for name, blocks := range map[string][]blockstore.Block{
		"a leaf":               {leaf},
		"a node without links": {newTree(1, 0, 0).blocks[0]},
		"few leaves":           newTree(21, 1, 3).blocks,
		"large leaves":         large(t),
	} {
		t.Run(name, func(t *testing.T) {
			seed := newNode(t, blocks...)
			root := blocks[0].CID()
			o, err := buildOrder(t.Context(), seed.store, root, cid.Undef)
			if err != nil {
				t.Fatal(err)
			}
			p := prober.client.probe(t.Context(), seed.info(), root, o, func() {})
			if r := p.result(); r.Standing != Full || r.Share != 1 {
				t.Errorf("%+v", r)
			}
			if p.bytes > probeBytes+3*blockstore.MaxBlockSize {
				t.Errorf("%d bytes of leaves came", p.bytes)
			}
			other := newNode(t)
			if r := prober.client.probe(t.Context(), other.info(), root, o, func() {}).result(); r.Standing >= Partial && r.Share > 0 {
				t.Errorf("of a peer that has nothing: %+v", r)
			}
		})
	}
}

func nodesOf(blocks []blockstore.Block) []blockstore.Block {
	return slices.DeleteFunc(slices.Clone(blocks), func(b blockstore.Block) bool { return b.CID().Type() == cid.Raw })
}

// large returns a DAG of 20 leaves of 2 MiB.
func large(t *testing.T) []blockstore.Block {
	t.Helper()
	site := tree{}
	for i := range 20 {
		data := make([]byte, blockstore.MaxBlockSize)
		data[0] = byte(i)
		site.blocks = append(site.blocks, blockstore.Sum(cid.Raw, data))
	}
	return append([]blockstore.Block{nodeOf(site.blocks...)}, site.blocks...)
}

// survey surveys with the given peers, announced as providers.
func (n *node) survey(t *testing.T, root cid.Cid, timeout time.Duration, from ...peer.AddrInfo) map[peer.ID]Probed {
	t.Helper()
	candidates := make(chan Candidate, len(from))
	for _, p := range from {
		candidates <- Candidate{AddrInfo: p, Provider: true}
	}
	close(candidates)
	list, err := n.client.Survey(t.Context(), SurveyRequest{Store: n.store, Root: root, Timeout: timeout}, candidates)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[peer.ID]Probed)
	last := time.Duration(1)
	for _, p := range list {
		if last == 0 && p.RTT != 0 || p.RTT != 0 && p.RTT < last {
			t.Errorf("not the nearest first: %v", list)
		}
		last = p.RTT
		got[p.Peer.ID] = p
	}
	return got
}

func standings(got map[peer.ID]Probed) map[peer.ID]Standing {
	out := make(map[peer.ID]Standing)
	for id, p := range got {
		out[id] = p.Standing
	}
	return out
}

// TestSurvey surveys for a site of which the prober holds all, some or nothing: it brings
// the nodes, and not one leaf.
func TestSurvey(t *testing.T) {
	site := newTree(22, 10, 20)
	full, another := newNode(t, site.blocks...), newNode(t, site.blocks...)
	half := newNode(t, site.blocks[:1]...)
	var nodes []blockstore.Block
	for i, b := range site.blocks {
		if b.CID().Type() != cid.Raw {
			nodes = append(nodes, b)
		} else if i%2 == 0 {
			if err := half.store.Put(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := half.store.Put(nodes...); err != nil {
		t.Fatal(err)
	}
	absent := newNode(t)
	dead := newHost(t)
	gone := peer.AddrInfo{ID: dead.ID(), Addrs: dead.Addrs()}
	dead.Close()
	want := map[peer.ID]Standing{full.ID(): Full, another.ID(): Full, half.ID(): Partial, gone.ID: Unreachable}
	for name, held := range map[string][]blockstore.Block{
		"all": site.blocks, "nothing": nil, "nodes": nodes, "some": site.blocks[:100], "all but the root": site.blocks[1:],
	} {
		t.Run(name, func(t *testing.T) {
			prober := newNode(t, held...)
			got := prober.survey(t, site.root(), time.Minute,
				full.info(), half.info(), another.info(), absent.info(), gone, prober.info())
			if !maps.Equal(standings(got), want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if len(got[gone.ID].Peer.Addrs) == 0 {
				t.Error("where the dead one should be is not said")
			}
			before := make(map[cid.Cid]struct{})
			for _, b := range held {
				before[b.CID()] = struct{}{}
			}
			for _, b := range site.blocks {
				_, ok := before[b.CID()]
				ok = ok || b.CID().Type() != cid.Raw
				if has, err := prober.store.Has(b.CID()); err != nil || has && !ok {
					t.Fatalf("leaf %s is held: %v", b.CID(), err)
				}
			}
		})
	}
}

// TestSurveyUnannounced has candidates that are merely connected, or were named by others:
// they count if they hold leaves.
func TestSurveyUnannounced(t *testing.T) {
	site := newTree(23, 3, 10)
	hidden, absent := newNode(t, site.blocks...), newNode(t)
	nodes := newNode(t, site.blocks[0])
	a := newAnswers(t, site)
	naming := liar(t, func(typ frameType, req []byte) []byte {
		frame := a.honest(typ, req)
		if typ == frameOpen {
			frame = appendPeers(frame, 1, []peer.AddrInfo{hidden.info(), absent.info()})
		}
		return frame
	})
	dead := newHost(t)
	gone := peer.AddrInfo{ID: dead.ID(), Addrs: dead.Addrs()}
	dead.Close()
	prober := newNode(t)
	candidates := make(chan Candidate, 8)
	for _, h := range []peer.AddrInfo{{ID: naming.ID(), Addrs: naming.Addrs()}, nodes.info(), absent.info(), gone} {
		candidates <- Candidate{AddrInfo: h}
	}
	close(candidates)
	var last SurveyProgress
	list, err := prober.client.Survey(t.Context(), SurveyRequest{
		Store: newNode(t, site.blocks...).store, Root: site.root(), Timeout: time.Minute,
		Progress: func(p SurveyProgress) { last = p },
	}, candidates)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[peer.ID]Standing)
	for _, p := range list {
		got[p.Peer.ID] = p.Standing
	}
	if want := map[peer.ID]Standing{naming.ID(): Full, hidden.ID(): Full}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if last.Found != 5 || last.Probed != 5 {
		t.Errorf("at the end: %+v", last)
	}
}

// TestSurveyNobody ends at once when nobody is found, and after a while of silence when
// nobody answers.
func TestSurveyNobody(t *testing.T) {
	site := newTree(24, 2, 2)
	prober := newNode(t)
	if got := prober.survey(t, site.root(), 0); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	mute := stranger(t, read)
	info := peer.AddrInfo{ID: mute.ID(), Addrs: mute.Addrs()}
	if err := prober.store.Put(site.blocks...); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got := prober.survey(t, site.root(), 300*time.Millisecond, info)
		if want := map[peer.ID]Standing{info.ID: Unreachable}; !maps.Equal(standings(got), want) {
			t.Errorf("got %v, want %v", got, want)
		}
		// And then without the nodes.
		prober = newNode(t)
	}
}

func TestSurveyCancelled(t *testing.T) {
	site := newTree(25, 2, 2)
	prober := newNode(t, site.blocks...)
	ctx, cancel := context.WithCancel(t.Context())
	mute := stranger(t, func(st network.Stream) {
		cancel()
		read(st)
	})
	candidates := make(chan Candidate, 1)
	candidates <- Candidate{AddrInfo: peer.AddrInfo{ID: mute.ID(), Addrs: mute.Addrs()}, Provider: true}
	_, err := prober.client.Survey(ctx, SurveyRequest{Store: prober.store, Root: site.root()}, candidates)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestNodesOnly fetches no leaf, not of a site so small that it would come whole with the
// first answer either.
func TestNodesOnly(t *testing.T) {
	for name, site := range map[string]tree{"small": newTree(26, 2, 2), "larger": newTree(27, 20, 30)} {
		t.Run(name, func(t *testing.T) {
			seed, prober := newNode(t, site.blocks...), newNode(t)
			res, err := prober.fetch(t.Context(), Request{Root: site.root(), NodesOnly: true}, seed.info())
			if err != nil {
				t.Fatal(err)
			}
			nodes := nodesOf(site.blocks)
			prober.checkHeld(t, nodes)
			if res.Blocks != len(nodes) || res.Bytes != size(nodes) || res.Received > 2*size(nodes)+1000 {
				t.Errorf("%+v for %d nodes of %d bytes", res, len(nodes), size(nodes))
			}
			again, err := prober.fetch(t.Context(), Request{Root: site.root(), NodesOnly: true})
			if err != nil || again.Received > 0 {
				t.Errorf("again: %+v, %v", again, err)
			}
		})
	}
}

// TestNodesOnlyBeside has a fetch of nodes begin before, and end after, one of the whole
// site: that is served to others meanwhile, and afterwards the node says that it holds all.
func TestNodesOnlyBeside(t *testing.T) {
	site := newTree(28, 20, 30)
	leaves := 20 * 30
	store := newStore(t)
	if err := store.Put(site.blocks...); err != nil {
		t.Fatal(err)
	}
	g := gate{store, make(chan struct{}, leaves)}
	seed := nodeWith(t, store, g)
	mirror, second := newNode(t), newNode(t)

	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{})
	var once sync.Once
	nodes, whole := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := mirror.fetch(ctx, Request{Root: site.root(), NodesOnly: true, Progress: func(Progress) {
			once.Do(func() { close(begun) })
		}}) // from nobody
		nodes <- err
	}()
	<-begun
	for range leaves / 2 {
		g.leaves <- struct{}{}
	}
	half := make(chan struct{})
	var onceMore sync.Once
	go func() {
		_, err := mirror.fetch(t.Context(), Request{Root: site.root(), Progress: func(p Progress) {
			if p.Bytes > site.bytes/3 {
				onceMore.Do(func() { close(half) })
			}
		}}, seed.info())
		whole <- err
	}()
	<-half
	o := newAnswers(t, site).order
	look := func() Probed {
		return second.client.probe(t.Context(), mirror.info(), site.root(), o, func() {}).result()
	}
	if got := look(); got.Standing != Partial || got.Share < 0.2 || got.Share > 0.6 {
		t.Errorf("in the middle: %+v", got)
	}
	for fetched := false; !fetched; {
		select {
		case g.leaves <- struct{}{}:
		case err := <-whole:
			if err != nil {
				t.Fatal(err)
			}
			fetched = true
		}
	}
	mirror.checkHeld(t, site.blocks)
	if got := look(); got.Standing != Full {
		t.Errorf("after the fetch: %+v", got)
	}
	cancel()
	if err := <-nodes; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := look(); got.Standing != Full {
		t.Errorf("after that of the nodes: %+v", got)
	}
}
