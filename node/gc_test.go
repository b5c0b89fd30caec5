package node

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/node/api"
)

// writeSite writes files, by slash-separated path, below a new directory.
func writeSite(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// siteOf returns a site of some folders, files and bytes, which differs by seed in half
// of its files.
func siteOf(seed int) map[string][]byte {
	files := map[string][]byte{}
	for i := range 40 {
		content := fmt.Appendf(nil, "shared %d", i)
		if i%2 == 0 {
			content = fmt.Appendf(nil, "site %d, file %d", seed, i)
		}
		files[fmt.Sprintf("%d/%d/page.html", i%3, i)] = content
	}
	files["large"] = bytes.Repeat(fmt.Appendf(nil, "%d", seed), 3<<20)[:3<<20]
	return files
}

// wantWhole checks that every block below root is held, and nothing in the store is
// damaged.
func wantWhole(t testing.TB, n *Node, roots ...string) {
	t.Helper()
	for _, r := range roots {
		root, err := cid.Decode(r)
		if err != nil {
			t.Fatal(err)
		}
		err = dag.Walk(t.Context(), n.store, root, func(c cid.Cid) error {
			_, err := n.store.Get(t.Context(), c)
			return err
		})
		if err != nil {
			t.Errorf("site %s: %v", r, err)
		}
	}
	res, err := n.Check(t.Context(), api.CheckRequest{Data: true}, nil)
	if err != nil || res.Damaged > 0 {
		t.Errorf("check found %+v, %v", res, err)
	}
}

func TestAddsAtOnce(t *testing.T) {
	const adds = 6
	same := writeSite(t, siteOf(0))
	for name, dirs := range map[string]func(i int) string{
		"of the same tree":   func(int) string { return same },
		"of different trees": func(i int) string { return writeSite(t, siteOf(i)) },
	} {
		t.Run(name, func(t *testing.T) {
			alone := openTestNode(t)
			n := openTestNode(t)
			var want, got [adds]string
			var all sync.WaitGroup
			for i := range adds {
				dir := dirs(i)
				res, err := alone.Add(t.Context(), api.AddRequest{Path: api.Raw(dir)}, nil)
				if err != nil {
					t.Fatal(err)
				}
				want[i] = res.Root
				all.Go(func() {
					res, err := n.Add(t.Context(), api.AddRequest{Path: api.Raw(dir)}, nil)
					if err != nil {
						t.Error(err)
					}
					got[i] = res.Root
				})
			}
			all.Wait()
			if got != want {
				t.Errorf("roots %v, one after the other %v", got, want)
			}
			wantWhole(t, n, got[:]...)
			if a, b := n.store.Stats(), alone.store.Stats(); a.Blocks != b.Blocks || a.Bytes != b.Bytes {
				t.Errorf("the store has %+v, one add after the other leaves %+v", a, b)
			}
			if got := len(n.sites.all()); got != len(alone.sites.all()) {
				t.Errorf("%d sites", got)
			}
		})
	}
}

// Sites come and go while one collection follows the other. What was added, and not
// let go, stays whole, the blocks too that it shares with what went.
func TestAddDuringGC(t *testing.T) {
	n := openTestNode(t)
	const writers, rounds = 3, 12
	var kept [writers]string
	var adding sync.WaitGroup
	for w := range writers {
		var dirs []string
		for seed := range 3 {
			dirs = append(dirs, writeSite(t, siteOf(w*10+seed)))
		}
		adding.Go(func() {
			for i := range rounds {
				res, err := n.Add(t.Context(), api.AddRequest{Path: api.Raw(dirs[i%len(dirs)]), Rehash: i%2 == 0}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if old := kept[w]; old != "" {
					if err := n.Unfollow(t.Context(), old); err != nil {
						t.Error(err)
					}
				}
				kept[w] = res.Root
			}
		})
	}
	added := make(chan struct{})
	go func() {
		adding.Wait()
		close(added)
	}()
	collections := 0
	for done := false; !done; {
		select {
		case <-added:
			done = true
		default:
		}
		if _, err := n.GC(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		collections++
	}
	t.Logf("%d collections beside %d adds", collections, writers*rounds)
	wantWhole(t, n, kept[:]...)
	blocks := 0
	for _, s := range n.sites.all() {
		blocks += int(s.Blocks)
	}
	if got := n.store.Stats().Blocks; got > blocks {
		t.Errorf("%d blocks are left, the sites have at most %d", got, blocks)
	}
}

// garbageBlock returns a block of 2 MiB that does not compress.
func garbageBlock() blockstore.Block {
	data := make([]byte, blockstore.MaxBlockSize)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return blockstore.Sum(cid.Raw, data)
}

// One run of bytes may be in a site as a file and as a directory: two CIDs with one
// hash. Whichever is met first, what is below the directory stays.
func TestGCTwoCodecs(t *testing.T) {
	leaf := blockstore.Sum(cid.Raw, []byte("below the directory"))
	dir := blockstore.Sum(cid.DagProtobuf, dag.Node{
		Links: []dag.Link{{Name: "leaf", CID: leaf.CID(), Size: 19}}, Data: []byte{8, 1},
	}.Encode())
	file := cid.NewCidV1(cid.Raw, dir.CID().Hash())
	for _, order := range [][]cid.Cid{{file, dir.CID()}, {dir.CID(), file}} {
		n := openTestNode(t)
		links := []dag.Link{{Name: "a", CID: order[0], Size: 1}, {Name: "b", CID: order[1], Size: 1}}
		root := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
		garbage := garbageBlock() // so that the pack is compacted
		if err := n.store.Put(leaf, dir, root, garbage); err != nil {
			t.Fatal(err)
		}
		if err := n.sites.put(site{Root: root.CID(), Whole: true}); err != nil {
			t.Fatal(err)
		}
		if res, err := n.GC(t.Context(), nil); err != nil || res.Blocks != 1 {
			t.Errorf("%+v, %v", res, err)
		}
		wantWhole(t, n, root.CID().String())
	}
}

// A site that is followed may turn out to be anything. It keeps nobody from
// collecting.
func TestGCHostileSites(t *testing.T) {
	md5, err := multihash.Encode(make([]byte, 16), multihash.MD5)
	if err != nil {
		t.Fatal(err)
	}
	node := func(links ...dag.Link) blockstore.Block {
		return blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
	}
	lost := blockstore.Sum(cid.DagProtobuf, []byte("lost")).CID()
	leaf := blockstore.Sum(cid.Raw, []byte("leaf"))
	same := make([]dag.Link, 40_000)
	for i := range same {
		same[i] = dag.Link{CID: leaf.CID()}
	}
	wide := node(same...)
	above := make([]dag.Link, 25) // the same child a million times
	for i := range above {
		above[i] = dag.Link{CID: wide.CID()}
	}
	chain := []blockstore.Block{leaf}
	for range 100_000 {
		chain = append(chain, node(dag.Link{CID: chain[len(chain)-1].CID()}))
	}
	for name, blocks := range map[string][]blockstore.Block{
		"not dag-pb":                 {blockstore.Sum(cid.DagProtobuf, []byte("broken"))},
		"another codec":              {blockstore.Sum(cid.DagCBOR, []byte{0xa0})},
		"an unknown hash below":      {node(dag.Link{CID: cid.NewCidV1(cid.Raw, md5)})},
		"an unknown hash of a node":  {node(dag.Link{CID: cid.NewCidV1(cid.DagProtobuf, md5)})},
		"something that is not held": {node(dag.Link{CID: lost})},
		"a million times the same":   {leaf, wide, node(above...)},
		"a chain of 100,000":         chain,
	} {
		t.Run(name, func(t *testing.T) {
			n := openTestNode(t)
			if err := n.store.Put(append(blocks, garbageBlock())...); err != nil {
				t.Fatal(err)
			}
			root := blocks[len(blocks)-1].CID()
			if err := n.sites.put(site{Root: root}); err != nil {
				t.Fatal(err)
			}
			if _, err := n.GC(t.Context(), nil); err != nil {
				t.Error(err)
			}
			for _, b := range blocks {
				if held, err := n.store.Has(b.CID()); err != nil || !held {
					t.Errorf("%s is not held any more, %v", b.CID(), err)
				}
			}
		})
	}
}
