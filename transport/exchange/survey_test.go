package exchange

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

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
