package exchange

import (
	"errors"
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
		{name: "not dag-pb", blocks: []blockstore.Block{broken, dirBlock(to(broken.CID()))},
			want: dag.ErrMalformed, text: broken.CID().String()},
		{name: "another codec", blocks: []blockstore.Block{cbor, dirBlock(to(cbor.CID()))},
			want: dag.ErrCodec, text: cbor.CID().String()},
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
			seed, mirror := newNode(t, d.blocks...), newNode(t)
			check := func(res Result, err error) {
				t.Helper()
				if (err == nil) != (d.known > 0) || d.want != nil && !errors.Is(err, d.want) ||
					err != nil && !strings.Contains(err.Error(), d.text) {
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
			// The provider refuses it too, so nothing comes after the root; one that does not
			// is followed as far as it can be.
			liar := newActorOf(t, d.blocks)
			check(mirror.fetch(limit(t), Request{Root: root, Progress: progress}, seed.info(), liar.info()))
			if mirror.client.bans.has(seed.ID()) || mirror.client.bans.has(liar.ID()) {
				t.Error("the provider is banned")
			}
			// The same where all of it is held.
			if err := mirror.store.Put(d.blocks...); err != nil {
				t.Fatal(err)
			}
			check(mirror.fetch(limit(t), Request{Root: root, Progress: progress}))
		})
	}
}

// newActorOf serves the blocks of a DAG that cannot be numbered, the last as its root and
// the others, if they are nodes, after it.
func newActorOf(t *testing.T, blocks []blockstore.Block) *actor {
	o := newOrder(blocks[len(blocks)-1].CID(), cid.Undef)
	for i := len(blocks) - 1; i >= 0; i-- {
		s := dag.Step{CID: blocks[i].CID()}
		if s.Leaf() {
			o.addLeaf(s)
		} else if err := o.addNode(s); err != nil {
			t.Fatal(err)
		}
	}
	o.finish()
	a := newActor(t, script{}, raw("x").CID(), cid.Undef, append(blocks, raw("x"))...)
	a.order = o
	return a
}
