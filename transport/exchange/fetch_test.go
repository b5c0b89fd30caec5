package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
	"pollux/dag"
)

func TestFetch(t *testing.T) {
	site := newTree(1, 20, 30)
	seed, mirror := newNode(t, site.blocks...), newNode(t)
	var last Progress
	res, err := mirror.fetch(t.Context(), Request{Root: site.root(), Progress: func(p Progress) {
		if p.Blocks > p.Known || p.Bytes < last.Bytes || p.Received < last.Received {
			t.Errorf("progress went from %+v to %+v", last, p)
		}
		last = p
	}}, seed.info())
	if err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	if res.Blocks != len(site.blocks) || res.Bytes != site.bytes || res.Peers != 1 {
		t.Errorf("%+v, want %d blocks of %d bytes", res, len(site.blocks), site.bytes)
	}
	if res.Received < site.bytes*9/10 || res.Received > site.bytes+site.bytes/20 {
		t.Errorf("%d bytes were received for %d", res.Received, site.bytes)
	}
	if last.Blocks != len(site.blocks) || last.Known != last.Blocks ||
		last.Bytes != last.TotalBytes || last.Received != res.Received {
		t.Errorf("at the end: %+v", last)
	}
}

// TestFetchKinds fetches DAGs of unusual shapes.
func TestFetchKinds(t *testing.T) {
	raw := func(s string) blockstore.Block { return blockstore.Sum(cid.Raw, []byte(s)) }
	node := func(links ...dag.Link) blockstore.Block {
		return blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
	}
	link := func(name string, b blockstore.Block) dag.Link {
		return dag.Link{Name: name, CID: b.CID(), Size: uint64(len(b.Data()))}
	}
	hashed := func(codec, hash uint64, data []byte) blockstore.Block {
		c, err := cid.V1Builder{Codec: codec, MhType: hash}.Sum(data)
		if err != nil {
			t.Fatal(err)
		}
		b, err := blockstore.NewBlock(c, data)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	a, b := raw("a"), raw("b")
	empty := node()
	big := blockstore.Sum(cid.Raw, bytes.Repeat([]byte("0123456789abcdef"), blockstore.MaxBlockSize/16))
	blake := hashed(cid.Raw, multihash.BLAKE3, []byte("blake"))
	blakeNode := hashed(cid.DagProtobuf, multihash.BLAKE3, node(link("a", a)).Data())
	v0, err := blockstore.NewBlock(cid.NewCidV0(node(link("b", b)).CID().Hash()), node(link("b", b)).Data())
	if err != nil {
		t.Fatal(err)
	}
	inlineNode := hashed(cid.DagProtobuf, multihash.IDENTITY, node(link("a", a)).Data())
	inlineLeaf := hashed(cid.Raw, multihash.IDENTITY, []byte("inline"))
	lying := dag.Link{Name: "x", CID: a.CID(), Size: 1 << 63}
	lot := node(lying, dag.Link{Name: "y", CID: b.CID(), Size: 1<<64 - 1}, dag.Link{Name: "z", CID: big.CID()})
	chain := []blockstore.Block{node(link("a", a))}
	for range 300 {
		chain = append(chain, node(link("c", chain[len(chain)-1])))
	}
	slices.Reverse(chain)
	var many []blockstore.Block
	var links []dag.Link
	for i := range 3000 {
		many = append(many, raw(fmt.Sprint(i)))
		links = append(links, link(fmt.Sprintf("%04d", i), many[i]))
	}
	for name, blocks := range map[string][]blockstore.Block{
		"a leaf":               {a},
		"an empty leaf":        {raw("")},
		"a node without links": {empty},
		"a node, a leaf":       {node(link("a", a)), a},
		"the same twice":       {node(link("a", a), link("b", b), link("c", a)), a, b},
		"the largest block":    {node(link("big", big)), big},
		"another hash":         {node(link("l", blake), link("n", blakeNode)), blake, blakeNode, a},
		"CIDv0":                {v0, b},
		"identity":             {node(link("l", inlineLeaf), link("n", inlineNode)), a},
		"sizes that lie":       {lot, a, b, big},
		"a chain":              append(chain, a),
		"many small":           append([]blockstore.Block{node(links...)}, many...),
	} {
		t.Run(name, func(t *testing.T) {
			seed, mirror := newNode(t, blocks...), newNode(t)
			res, err := mirror.fetch(t.Context(), Request{Root: blocks[0].CID()}, seed.info())
			if err != nil {
				t.Fatal(err)
			}
			mirror.checkHeld(t, blocks)
			if res.Blocks != len(blocks) {
				t.Errorf("%d blocks, want %d", res.Blocks, len(blocks))
			}
		})
	}
}

// TestFetchResumes finds part of the site in the store, whatever part that is, and does
// not receive it again.
func TestFetchResumes(t *testing.T) {
	site := newTree(2, 20, 30)
	seed := newNode(t, site.blocks...)
	for name, held := range map[string]func(i int) bool{
		"nothing":       func(int) bool { return false },
		"every second":  func(i int) bool { return i%2 == 0 },
		"the first":     func(i int) bool { return i < 300 },
		"all but a few": func(i int) bool { return i%100 != 7 },
		"all but nodes": func(i int) bool { return site.blocks[i].CID().Type() == cid.Raw },
		"nodes":         func(i int) bool { return site.blocks[i].CID().Type() != cid.Raw },
		"all":           func(int) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			mirror := newNode(t)
			missing := int64(0)
			for i, b := range site.blocks {
				if !held(i) {
					missing += int64(len(b.Data()))
				} else if err := mirror.store.Put(b); err != nil {
					t.Fatal(err)
				}
			}
			var last Progress
			req := Request{Root: site.root(), Progress: func(p Progress) { last = p }}
			res, err := mirror.fetch(t.Context(), req, seed.info())
			if err != nil {
				t.Fatal(err)
			}
			mirror.checkHeld(t, site.blocks)
			if last.Held != site.bytes-missing || last.Bytes != site.bytes {
				t.Errorf("%+v, though %d bytes of %d were missing", last, missing, site.bytes)
			}
			// Nodes that follow one that is missing may come once more; they are small.
			if res.Received > missing+missing/10+40_000 {
				t.Errorf("%d bytes were received for %d that were missing", res.Received, missing)
			}
			if missing == 0 && res.Received != 0 {
				t.Errorf("%d bytes were received though nothing was missing", res.Received)
			}
		})
	}
}

// TestFetchFromParts fetches from peers none of which has all.
func TestFetchFromParts(t *testing.T) {
	site := newTree(3, 10, 60)
	mirror := newNode(t)
	var infos []peer.AddrInfo
	for k := range 3 {
		n := newNode(t)
		for i, b := range site.blocks {
			// All have the nodes, as a peer that began to fetch has, and a third each, in
			// pieces smaller than a segment.
			if b.CID().Type() != cid.Raw || i%3 == k {
				if err := n.store.Put(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		infos = append(infos, n.info())
	}
	res, err := mirror.fetch(t.Context(), Request{Root: site.root()}, infos...)
	if err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	if res.Peers != 3 {
		t.Errorf("%d peers gave something, want 3", res.Peers)
	}
	if res.Received > site.bytes+site.bytes/10 {
		t.Errorf("%d bytes were received for %d", res.Received, site.bytes)
	}
}

// TestFetchWithoutNode asks a peer that lacks a node, and then one that has it.
func TestFetchWithoutNode(t *testing.T) {
	site := newTree(4, 5, 10)
	lacking := newNode(t)
	for i, b := range site.blocks {
		if i != len(site.blocks)-1 {
			if err := lacking.store.Put(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole, mirror := newNode(t, site.blocks...), newNode(t)
	if _, err := mirror.fetch(t.Context(), Request{Root: site.root()}, lacking.info(), whole.info()); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
}

func TestFetchUnreachable(t *testing.T) {
	site := newTree(5, 2, 2)
	other, mirror := newNode(t), newNode(t)
	_, err := mirror.fetch(t.Context(), Request{Root: site.root(), Timeout: time.Second}, other.info())
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Providers != 1 || unreachable.Asked != 1 {
		t.Errorf("got %v (%+v)", err, unreachable)
	}
}

func TestFetchCancelled(t *testing.T) {
	site := newTree(6, 20, 30)
	seed, mirror := newNode(t, site.blocks...), newNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	_, err := mirror.fetch(ctx, Request{Root: site.root(), Progress: func(p Progress) {
		if p.Received > 0 {
			once.Do(cancel)
		}
	}}, seed.info())
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := mirror.fetch(t.Context(), Request{Root: site.root()}, seed.info()); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
}

// gate is a store whose leaves can be read one after the other, as somebody allows.
type gate struct {
	*blockstore.Store
	leaves chan struct{}
}

func (g gate) wait(ctx context.Context, c cid.Cid) error {
	if c.Type() == cid.Raw {
		select {
		case <-g.leaves:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (g gate) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if err := g.wait(ctx, c); err != nil {
		return blockstore.Block{}, err
	}
	return g.Store.Get(ctx, c)
}

func (g gate) Packed(ctx context.Context, c cid.Cid) ([]byte, bool, int, error) {
	if err := g.wait(ctx, c); err != nil {
		return nil, false, 0, err
	}
	return g.Store.Packed(ctx, c)
}

// TestServedMeanwhile has a second mirror fetch from the first, which does not have all
// yet. Neither is told of the other: the seed does that.
func TestServedMeanwhile(t *testing.T) {
	site := newTree(7, 30, 40)
	leaves := 30 * 40
	store := newStore(t)
	if err := store.Put(site.blocks...); err != nil {
		t.Fatal(err)
	}
	g := gate{store, make(chan struct{}, leaves)}
	seed := nodeWith(t, store, g)
	first, second := newNode(t), newNode(t)

	for range leaves / 2 {
		g.leaves <- struct{}{}
	}
	half := make(chan struct{})
	var once sync.Once
	type result struct {
		res Result
		err error
	}
	done := make(chan result, 2)
	go func() {
		res, err := first.fetch(t.Context(), Request{Root: site.root(), Progress: func(p Progress) {
			if p.Bytes > site.bytes/3 {
				once.Do(func() { close(half) })
			}
		}}, seed.info())
		done <- result{res, err}
	}()
	<-half
	// The seed has nothing to give now: whatever the second gets comes from the first.
	got := make(chan struct{})
	var onceMore sync.Once
	go func() {
		res, err := second.fetch(t.Context(), Request{Root: site.root(), Progress: func(p Progress) {
			if p.Bytes > site.bytes/4 {
				onceMore.Do(func() { close(got) })
			}
		}}, seed.info())
		done <- result{res, err}
	}()
	<-got
	for range leaves {
		select {
		case g.leaves <- struct{}{}:
		default:
		}
	}
	for n := 0; n < 2; {
		select {
		case r := <-done:
			n++
			if r.err != nil {
				t.Fatal(r.err)
			}
		case g.leaves <- struct{}{}: // what was sent twice
		}
	}
	first.checkHeld(t, site.blocks)
	second.checkHeld(t, site.blocks)
}

// TestTwoFetches fetches two sites from the same seed at once, and one of them twice.
func TestTwoFetches(t *testing.T) {
	a, b := newTree(9, 10, 20), newTree(10, 10, 20)
	seed := newNode(t, append(slices.Clone(a.blocks), b.blocks...)...)
	mirror := newNode(t)
	var tasks sync.WaitGroup
	for _, root := range []cid.Cid{a.root(), b.root(), a.root()} {
		tasks.Go(func() {
			if _, err := mirror.fetch(t.Context(), Request{Root: root}, seed.info()); err != nil {
				t.Error(err)
			}
		})
	}
	tasks.Wait()
	mirror.checkHeld(t, append(slices.Clone(a.blocks), b.blocks...))
}

// TestRemembered remembers more peers than a Fetch may.
func TestRemembered(t *testing.T) {
	set := make(peerSet)
	for i := range 2 * maxRemembered {
		set.add(peer.ID(fmt.Sprint(i)))
	}
	if len(set) != maxRemembered {
		t.Errorf("%d peers are remembered", len(set))
	}
}
