package exchange

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
	"pollux/dag"
)

func dirBlock(links ...dag.Link) blockstore.Block {
	return blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
}

func hashOf(t testing.TB, code uint64, digest []byte) multihash.Multihash {
	t.Helper()
	h, err := multihash.Encode(digest, code)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// hostileDAG is blocks whose last is the root, and what a fetch of it says: an error
// that wraps want or has text, or none.
type hostileDAG struct {
	name   string
	blocks []blockstore.Block
	want   error
	text   string
	known  int // blocks, if it can be fetched
}

func hostileDAGs(t testing.TB) []hostileDAG {
	leaf := blockstore.Sum(cid.Raw, []byte("leaf"))
	to := func(c cid.Cid) dag.Link { return dag.Link{Name: "a", CID: c, Size: 1} }
	unverifiable := func(name string, h multihash.Multihash) hostileDAG {
		c := cid.NewCidV1(cid.Raw, h)
		return hostileDAG{name: name, blocks: []blockstore.Block{leaf, dirBlock(to(leaf.CID()), to(c))}, text: c.String()}
	}
	broken := blockstore.Sum(cid.DagProtobuf, []byte("broken"))
	cbor := blockstore.Sum(cid.DagCBOR, []byte{0xa0})
	inside := dag.Node{Links: []dag.Link{to(leaf.CID())}, Data: []byte{8, 1}}.Encode()
	wide := make([]dag.Link, 36_000)
	for i := range wide {
		wide[i] = dag.Link{CID: leaf.CID(), Size: 1<<64 - 1}
	}
	million := make([]dag.Link, 28)
	for i := range million {
		million[i] = dag.Link{CID: dirBlock(wide...).CID(), Size: 1<<64 - 1}
	}
	return []hostileDAG{
		{name: "not dag-pb", blocks: []blockstore.Block{broken, dirBlock(to(broken.CID()))}, want: dag.ErrMalformed, text: broken.CID().String()},
		{name: "another codec", blocks: []blockstore.Block{cbor, dirBlock(to(cbor.CID()))}, want: dag.ErrCodec, text: cbor.CID().String()},
		unverifiable("unknown hash", hashOf(t, 0x300001, make([]byte, 32))),
		unverifiable("MD5", hashOf(t, multihash.MD5, make([]byte, 16))),
		unverifiable("SHA2-256 of 8 bytes", hashOf(t, multihash.SHA2_256, make([]byte, 8))),
		unverifiable("identity CID of 129 bytes", hashOf(t, multihash.IDENTITY, make([]byte, 129))),
		{name: "a directory in an identity CID", known: 2,
			blocks: []blockstore.Block{leaf, dirBlock(to(cid.NewCidV1(cid.DagProtobuf, hashOf(t, multihash.IDENTITY, inside))))}},
		{name: "sizes of 2^64-1", known: 2, blocks: []blockstore.Block{leaf, dirBlock(wide[:2]...)}},
		{name: "the same child a million times", known: 3, blocks: []blockstore.Block{leaf, dirBlock(wide...), dirBlock(million...)}},
	}
}

// A DAG that no honest program made is refused for what it is, and not held against
// who sent it; in progress no count goes below zero. What came before stays.
func TestHostileDAGs(t *testing.T) {
	for _, d := range hostileDAGs(t) {
		t.Run(d.name, func(t *testing.T) {
			root := d.blocks[len(d.blocks)-1].CID()
			h := provider(t, d.blocks...)
			c, store := newClient(t)
			check := func(res Result, err error) {
				t.Helper()
				if (err == nil) != (d.known > 0) || d.want != nil && !errors.Is(err, d.want) || err != nil && !strings.Contains(err.Error(), d.text) {
					t.Errorf("got error %v, want %v with %q", err, d.want, d.text)
				}
				if err == nil && res.Blocks != d.known {
					t.Errorf("%d blocks, want %d", res.Blocks, d.known)
				}
			}
			progress := func(p Progress) {
				if p.Blocks < 0 || p.Bytes < 0 || p.TotalBytes < 0 {
					t.Errorf("progress %+v", p)
				}
			}
			check(c.Fetch(t.Context(), Request{Root: root, Progress: progress}, candidates(h)))
			if c.bans.has(h.ID()) {
				t.Error("the provider is banned")
			}
			// The same where all of it is held.
			if err := store.Put(d.blocks...); err != nil {
				t.Fatal(err)
			}
			check(c.Fetch(t.Context(), Request{Root: root, Progress: progress}, nil))
		})
	}
}

// A chain of 100,000 nodes is followed as long as it is, one block after the other.
func TestLongChain(t *testing.T) {
	const long = 100_000
	blocks := []blockstore.Block{blockstore.Sum(cid.Raw, []byte("end"))}
	for range long {
		blocks = append(blocks, dirBlock(dag.Link{CID: blocks[len(blocks)-1].CID()}))
	}
	c, store := newClient(t)
	if err := store.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	res, err := c.Fetch(t.Context(), Request{Root: blocks[long].CID()}, nil)
	if err != nil || res.Blocks != long+1 {
		t.Errorf("%+v, %v", res, err)
	}
}

// sampled says how much memory is in use, at most, while blocks are asked for.
type sampled struct {
	Store
	before, most uint64
	gets         int
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func (s *sampled) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if s.gets++; s.gets%10 == 0 {
		s.most = max(s.most, inUse())
	}
	return s.Store.Get(ctx, c)
}

// As many nodes as one can link to, each as full of links as it can be, are not in
// memory all at once: what is, is known or waits, and both have limits.
func TestFullNodes(t *testing.T) {
	c, store := newClient(t)
	const nodes, tiny = 20, 149_000
	var above []dag.Link
	same := make([]dag.Link, tiny)
	for i := range nodes {
		// Ten links that differ among many that do not, so that what is known stays small.
		for j := range same {
			digest := binary.BigEndian.AppendUint16(nil, uint16(i*10+j%10))
			same[j] = dag.Link{CID: cid.NewCidV1(cid.Raw, hashOf(t, multihash.IDENTITY, digest))}
		}
		b := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: same}.Encode())
		if err := store.Put(b); err != nil {
			t.Fatal(err)
		}
		above = append(above, dag.Link{Name: fmt.Sprint(i), CID: b.CID()})
	}
	root := dirBlock(above...)
	if err := store.Put(root); err != nil {
		t.Fatal(err)
	}
	s := &sampled{Store: store, before: inUse()}
	c.store = s
	if _, err := c.Fetch(t.Context(), Request{Root: root.CID()}, nil); err != nil {
		t.Fatal(err)
	}
	const limit = 60 << 20 // with the store's cache of blocks
	if s.most > s.before+limit {
		t.Errorf("%d bytes were in use", s.most-s.before)
	}
}
