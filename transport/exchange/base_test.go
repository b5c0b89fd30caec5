package exchange

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/dag"
)

// pages returns a site of n pages, each with the given line; those of the same seed differ in that
// line alone. The root is first.
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
	t.Run("the seed holds none of two bases, and one is damaged", func(t *testing.T) {
		lost := pages(1, 120, "June 1")
		mirror := newNode(t, append(slices.Delete(slices.Clone(lost), 21, 22), v1...)...)
		req := Request{Root: v2[0].CID(), Bases: []cid.Cid{lost[0].CID(), v1[0].CID()}, Timeout: 20 * time.Second}
		if _, err := mirror.fetch(t.Context(), req, newNode(t, v2...).info()); err != nil {
			t.Fatal(err)
		}
		for _, b := range v2 {
			if ok, err := mirror.store.Has(b.CID()); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
	})
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

// slowHas is a store that takes a second, of a bubble's time, to say whether it has a node.
type slowHas struct{ *blockstore.Store }

func (s slowHas) Has(c cid.Cid) (bool, error) {
	if c.Type() == cid.DagProtobuf {
		time.Sleep(time.Second)
	}
	return s.Store.Has(c)
}

// TestLacksBaseBeforeAsked has a provider say that it lacks a base before there is a node to ask
// it for. Another base is tried all the same.
func TestLacksBaseBeforeAsked(t *testing.T) {
	h := newHost(t)
	v1, v2, local := pages(1, 120, "May 12"), pages(1, 120, "October 7"), pages(1, 120, "June 1")
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, near{h, "seed", nil}, nil, hold(slices.Concat(v1, v2)...))
		store := newStore(t)
		if err := store.Put(slices.Concat(v1, local)...); err != nil {
			t.Fatal(err)
		}
		mirror := nodeOn(t, near{h, "mirror", streams{"seed": seed.near}}, store, store)
		bases := []cid.Cid{local[0].CID(), v1[0].CID()}
		req := Request{Root: v2[0].CID(), Bases: bases, Store: slowHas{store}}
		res, err := mirror.fetch(t.Context(), req, peer.AddrInfo{ID: "seed"})
		if err != nil {
			t.Fatal(err)
		}
		if whole := size(v2); res.Received > whole/40 {
			t.Errorf("%d bytes were received for a version of %d", res.Received, whole)
		}
	})
}
