package exchange

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
)

// TestOrderAgrees compares the order that a fetch makes while nodes come with that of who
// has all of them, with and without a base.
func TestOrderAgrees(t *testing.T) {
	v1, v2 := pages(4, 60, "May 12"), pages(4, 60, "October 7")
	next := slices.Clone(v2)
	next[1] = v1[1] // a page is the same
	n, err := dag.DecodeNode(next[21].Data())
	if err != nil {
		t.Fatal(err)
	}
	n.Links[0].CID = next[1].CID()
	next[21] = blockstore.Sum(cid.DagProtobuf, n.Encode())
	n, err = dag.DecodeNode(next[0].Data())
	if err != nil {
		t.Fatal(err)
	}
	n.Links[0].CID = next[21].CID()
	n.Links[1].CID = v1[42].CID() // a folder is the same
	next[0] = blockstore.Sum(cid.DagProtobuf, n.Encode())
	all := append(slices.Clone(v1), next...)
	for name, base := range map[string]cid.Cid{"without a base": cid.Undef, "with one": v1[0].CID()} {
		t.Run(name, func(t *testing.T) {
			want, err := buildOrder(t.Context(), hold(all...), next[0].CID(), base)
			if err != nil {
				t.Fatal(err)
			}
			seed, mirror := newNode(t, all...), newNode(t, v1...)
			req := Request{Store: mirror.store, Root: next[0].CID()}
			if base.Defined() {
				req.Bases = []cid.Cid{base}
			}
			f := newFetch(mirror.client, req)
			candidates := make(chan Candidate, 1)
			candidates <- Candidate{AddrInfo: seed.info()}
			if _, err := f.run(limit(t), candidates); err != nil {
				t.Fatal(err)
			}
			same(t, f.order, want)
			if got := want.nodeCount(false); base.Defined() && (got != 3 || want.nodeCount(true) != 4) {
				t.Errorf("%d of %d nodes differ", got, want.nodeCount(true))
			}
			if base.Defined() && want.leafBase(0).Defined() {
				t.Error("a page that is the same has a base")
			}
			if base.Defined() && !want.leafBase(1).Equals(v1[2].CID()) {
				t.Error("a page that changed has not the one that was there as its base")
			}
		})
	}
}

func same(t *testing.T, got, want *order) {
	t.Helper()
	if got.nodes.len() != want.nodes.len() || got.leaves.len() != want.leaves.len() || got.based() != want.based() {
		t.Fatalf("%d nodes and %d leaves, want %d and %d",
			got.nodes.len(), got.leaves.len(), want.nodes.len(), want.leaves.len())
	}
	if !slices.Equal(got.differ, want.differ) || !slices.Equal(got.cuts, want.cuts) || !got.complete || !want.complete {
		t.Error("other segments, or other nodes differ")
	}
	for _, full := range []bool{true, false} {
		for i := range want.nodeCount(full) {
			c, base := got.node(i, full)
			if wantC, wantBase := want.node(i, full); !c.Equals(wantC) || !base.Equals(wantBase) {
				t.Fatalf("node %d is another", i)
			}
		}
	}
	for i := range want.leaves.len() {
		if !got.leaves.at(i).Equals(want.leaves.at(i)) || !got.leafBase(i).Equals(want.leafBase(i)) {
			t.Fatalf("leaf %d is another", i)
		}
	}
}

// TestSegments looks up each leaf of an order of many segments.
func TestSegments(t *testing.T) {
	site := newTree(71, 30, 40)
	o, err := buildOrder(t.Context(), hold(site.blocks...), site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.cuts) < 5 {
		t.Fatalf("%d segments", len(o.cuts))
	}
	at := 0
	for i := range o.cuts {
		s := o.segmentSpan(i)
		if s.first != at || s.n < 1 || s.n > segmentLeaves {
			t.Errorf("segment %d is %v, want one from %d", i, s, at)
		}
		for leaf := s.first; leaf < s.end(); leaf++ {
			if number, got := o.segmentOf(leaf); number != i || got != s {
				t.Fatalf("leaf %d is in segment %d, want %d", leaf, number, i)
			}
		}
		at = s.end()
	}
	if at != o.leaves.len() {
		t.Errorf("segments of %d leaves, want %d", at, o.leaves.len())
	}
}

func TestOrderFails(t *testing.T) {
	v1, v2 := pages(5, 40, "May 12"), pages(5, 40, "October 7")
	store := hold(append(slices.Clone(v1), v2...)...)
	delete(store, v1[21].CID())
	if _, err := buildOrder(t.Context(), store, v2[0].CID(), v1[0].CID()); !errors.Is(err, errNoBase) {
		t.Errorf("with a base that is not whole: %v", err)
	}
	delete(store, v2[42].CID())
	if _, err := buildOrder(t.Context(), store, v2[0].CID(), cid.Undef); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("without a node: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := buildOrder(ctx, hold(v1...), v1[0].CID(), cid.Undef); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
