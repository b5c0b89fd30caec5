package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
			res, err := mirror.fetch(t.Context(), Request{Root: site.root()}, seed.info())
			if err != nil {
				t.Fatal(err)
			}
			mirror.checkHeld(t, site.blocks)
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

// changed returns a next version of files: in each a line is another.
func pages(seed uint64, n int, line string) (blocks []blockstore.Block) {
	r := rand.New(rand.NewPCG(seed, 3))
	var folders []dag.Link
	for i := range n / 20 {
		var links []dag.Link
		for j := range 20 {
			page := fmt.Appendf(nil, "<h1>%d %d</h1>\n<p>%s</p>\n", i, j, line)
			for range 200 {
				page = fmt.Appendf(page, "<p>%016x</p>\n", r.Uint64())
			}
			b := blockstore.Sum(cid.Raw, page)
			blocks = append(blocks, b)
			links = append(links, dag.Link{Name: fmt.Sprintf("%02d.html", j), CID: b.CID(), Size: uint64(len(page))})
		}
		b := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
		blocks = append(blocks, b)
		folders = append(folders, dag.Link{Name: fmt.Sprintf("%02d", i), CID: b.CID(), Size: 1})
	}
	b := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: folders, Data: []byte{8, 1}}.Encode())
	return append([]blockstore.Block{b}, blocks...)
}

func size(blocks []blockstore.Block) (n int64) {
	for _, b := range blocks {
		n += int64(len(b.Data()))
	}
	return n
}

// TestUpdate fetches the next version of a site that is held.
func TestUpdate(t *testing.T) {
	v1, v2 := pages(1, 120, "May 12"), pages(1, 120, "October 7")
	other := pages(2, 40, "other")
	all := append(slices.Clone(v1), v2...)
	update := func(t *testing.T, mirror *node, bases []cid.Cid, seeds ...*node) Result {
		t.Helper()
		var infos []peer.AddrInfo
		for _, s := range seeds {
			infos = append(infos, s.info())
		}
		res, err := mirror.fetch(t.Context(), Request{Root: v2[0].CID(), Bases: bases}, infos...)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			if _, err := mirror.store.Get(t.Context(), b.CID()); err != nil {
				t.Fatal(err)
			}
		}
		return res
	}
	whole := size(v2)
	t.Run("both hold the base", func(t *testing.T) {
		res := update(t, newNode(t, v1...), []cid.Cid{v1[0].CID()}, newNode(t, all...))
		if res.Received > whole/40 {
			t.Errorf("%d bytes were received for a version of %d", res.Received, whole)
		}
	})
	t.Run("the best of several bases", func(t *testing.T) {
		mirror := newNode(t, append(slices.Clone(v1), other...)...)
		res := update(t, mirror, []cid.Cid{other[0].CID(), v1[0].CID()}, newNode(t, all...))
		if res.Received > whole/40 {
			t.Errorf("%d bytes were received for a version of %d", res.Received, whole)
		}
	})
	t.Run("the seed holds the least of several bases", func(t *testing.T) {
		// All have the same names as what is fetched, and two were made by whoever mirrors.
		local, mine := pages(1, 120, "June 1"), pages(1, 120, "June 2")
		mirror := newNode(t, slices.Concat(v1, local, mine)...)
		bases := []cid.Cid{mine[0].CID(), local[0].CID(), v1[0].CID()}
		res := update(t, mirror, bases, newNode(t, all...))
		if res.Received > whole/40 || res.Peers != 1 {
			t.Errorf("%d bytes were received for a version of %d, of %d peers", res.Received, whole, res.Peers)
		}
	})
	t.Run("the seed holds none of several bases", func(t *testing.T) {
		mirror := newNode(t, slices.Concat(v1, other)...)
		again := pages(1, 120, "June 1")
		if err := mirror.store.Put(again...); err != nil {
			t.Fatal(err)
		}
		res := update(t, mirror, []cid.Cid{again[0].CID(), v1[0].CID(), other[0].CID()}, newNode(t, v2...))
		if res.Bytes != whole {
			t.Errorf("%d bytes were fetched, of %d", res.Bytes, whole)
		}
	})
	t.Run("the seed lacks the base", func(t *testing.T) {
		update(t, newNode(t, v1...), []cid.Cid{v1[0].CID()}, newNode(t, v2...))
	})
	t.Run("one of two seeds lacks the base", func(t *testing.T) {
		update(t, newNode(t, v1...), []cid.Cid{v1[0].CID()}, newNode(t, v2...), newNode(t, all...))
	})
	for i, name := range []string{"root", "folder", "page"} {
		t.Run("the mirror lost a "+name+" of the base", func(t *testing.T) {
			lost := []int{0, 21, 1}[i]
			mirror := newNode(t, slices.Delete(slices.Clone(v1), lost, lost+1)...)
			req := Request{Root: v2[0].CID(), Bases: []cid.Cid{v1[0].CID()}}
			res, err := mirror.fetch(t.Context(), req, newNode(t, all...).info())
			if err != nil {
				t.Fatal(err)
			}
			if res.Received == 0 {
				t.Error("nothing was received")
			}
			for _, b := range v2 {
				if _, err := mirror.store.Get(t.Context(), b.CID()); err != nil {
					t.Fatal(err)
				}
			}
		})
		t.Run("the seed lost a "+name+" of the base", func(t *testing.T) {
			lost := []int{0, 21, 1}[i]
			update(t, newNode(t, v1...), []cid.Cid{v1[0].CID()},
				newNode(t, append(slices.Delete(slices.Clone(v1), lost, lost+1), v2...)...))
		})
	}
	t.Run("only a page changed", func(t *testing.T) {
		// The version is the old one but for one folder.
		next := slices.Clone(v1)
		next[1] = blockstore.Sum(cid.Raw, append(slices.Clone(v1[1].Data()), "<p>more</p>\n"...))
		relink := func(node, child int, c cid.Cid) {
			n, err := dag.DecodeNode(next[node].Data())
			if err != nil {
				t.Fatal(err)
			}
			n.Links[child].CID = c
			next[node] = blockstore.Sum(cid.DagProtobuf, n.Encode())
		}
		relink(21, 0, next[1].CID())
		relink(0, 0, next[21].CID())
		mirror := newNode(t, v1...)
		seed := newNode(t, append(slices.Clone(v1), next...)...)
		req := Request{Root: next[0].CID(), Bases: []cid.Cid{v1[0].CID()}}
		res, err := mirror.fetch(t.Context(), req, seed.info())
		if err != nil {
			t.Fatal(err)
		}
		if res.Received > 1500 {
			t.Errorf("%d bytes were received for one page", res.Received)
		}
		if _, err := mirror.store.Get(t.Context(), next[1].CID()); err != nil {
			t.Error(err)
		}
	})
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

// TestChooseBase has the providers lack one base after the other.
func TestChooseBase(t *testing.T) {
	site, other := pages(1, 40, "October 7"), pages(2, 2, "other")
	var bases []cid.Cid
	mirror := newNode(t, other...)
	for _, line := range []string{"June 1", "June 2", "June 3", "June 4"} {
		like := pages(1, 40, line)
		if err := mirror.store.Put(like...); err != nil {
			t.Fatal(err)
		}
		bases = append(bases, like[0].CID())
	}
	below, err := links(site[0])
	if err != nil {
		t.Fatal(err)
	}
	unlike := other[0].CID()
	for _, tt := range []struct {
		bases, refused []cid.Cid
		want           cid.Cid
		spare          bool
	}{
		{bases[:1], nil, bases[0], false},
		{append([]cid.Cid{unlike}, bases[0]), nil, bases[0], false},
		{bases[:2], nil, bases[0], true},
		{bases[:2], bases[:1], bases[1], true},
		{bases[:2], bases[:2], bases[0], false},
		{append([]cid.Cid{unlike}, bases[:2]...), bases[:2], bases[0], false},
		{bases, bases[:2], bases[2], true},
		{bases, bases[:3], bases[0], false},
	} {
		f := newFetch(mirror.client, Request{Store: mirror.store, Root: site[0].CID(), Bases: tt.bases})
		f.refused = tt.refused
		if got := f.chooseBase(below); !got.Equals(tt.want) || f.index.spare != tt.spare {
			t.Errorf("of %d bases, %d of them refused: number %d, another %v", len(tt.bases), len(tt.refused),
				slices.Index(tt.bases, got), f.index.spare)
		}
	}
}
