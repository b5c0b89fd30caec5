package blockstore

import (
	"encoding/binary"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// A keySet says of each key what a map says, at each size that it grows to, and in
// which order they came.
func TestKeySet(t *testing.T) {
	var s keySet
	if s.has(key{}) {
		t.Error("has something at first")
	}
	want := make(map[key]int)
	var order []key
	for i := range 3 * keyChunk {
		// Keys that agree in all but a few bytes, the zero key first, each three times.
		var k key
		binary.BigEndian.PutUint16(k[i%2*30:], uint16(i/3*2))
		_, held := want[k]
		if s.has(k) != held {
			t.Fatalf("%d: held before it came: %v", i, !held)
		}
		if s.add(k) == held {
			t.Fatalf("%d: new: %v", i, held)
		}
		if !held {
			want[k] = len(order)
			order = append(order, k)
		}
		if !s.has(k) || s.len() != len(order) {
			t.Fatalf("%d: %d keys, want %d", i, s.len(), len(order))
		}
	}
	if len(order) <= keyChunk {
		t.Fatalf("%d keys fill one chunk only", len(order))
	}
	for i, k := range order {
		if *s.at(i) != k {
			t.Fatalf("key %d is another", i)
		}
		if k[31] = 1; s.has(k) {
			t.Fatalf("has %x", k)
		}
	}
}

// Members of a CIDSet are CIDs, not hashes.
func TestCIDSet(t *testing.T) {
	leaf := Sum(cid.Raw, []byte("x")).CID()
	long, err := multihash.Sum([]byte("x"), multihash.SHA2_512, -1)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := multihash.Sum([]byte("x"), multihash.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	all := []cid.Cid{
		leaf, cid.NewCidV1(cid.DagProtobuf, leaf.Hash()), cid.NewCidV0(leaf.Hash()), cid.NewCidV1(cid.DagCBOR, leaf.Hash()),
		cid.NewCidV1(cid.Raw, long), cid.NewCidV1(cid.DagProtobuf, long),
		cid.NewCidV1(cid.Raw, identity), cid.Undef,
	}
	var s CIDSet
	for _, want := range []bool{true, false} {
		for _, c := range all {
			if s.Has(c) == want || s.Add(c) != want {
				t.Errorf("%s: new: %v", c, !want)
			}
		}
	}
}

func BenchmarkKeySet(b *testing.B) {
	for b.Loop() {
		var s keySet
		for i := range 100_000 {
			var k key
			binary.BigEndian.PutUint64(k[:], uint64(i))
			s.add(k)
		}
	}
}
