package dag

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/hamt"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"
)

func TestLargeDirectoryLikeBoxo(t *testing.T) {
	m, b := newMemStore(), newBoxo(unixfsV1)
	var entries []Link
	children := map[string]format.Node{}
	for i := range 20000 {
		name, content := fmt.Sprintf("page-%05d.html", i), fmt.Sprint(i%100)
		entries = append(entries, m.putFile(t, name, content))
		raw, err := merkledag.NewRawNodeWPrefix([]byte(content), b.builder)
		if err != nil {
			t.Fatal(err)
		}
		children[name] = raw
	}
	dir, err := unixfsV1.putDirectory(entries, metadata{}, m.put)
	if err != nil {
		t.Fatal(err)
	}
	want := b.makeDir(t, children)
	size, err := want.Size()
	if err != nil {
		t.Fatal(err)
	}
	if dir.CID != want.Cid() || dir.Size != size {
		t.Errorf("%s of %d bytes, boxo has %s of %d", dir.CID, dir.Size, want.Cid(), size)
	}
}

// makeHAMT makes the node of a HAMT shard.
func makeHAMT(fanout uint64, bitmap []byte, links ...Link) Node {
	u := unixfs{Type: typeHAMTShard, Data: bitmap, HashType: hamtHash, Fanout: fanout}
	return Node{Links: links, Data: u.Encode()}
}

func TestReadShardRefuses(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "", "x")
	named := func(names ...string) (links []Link) {
		for _, name := range names {
			links = append(links, Link{name, file.CID, 1})
		}
		return links
	}
	wrongHash := unixfs{Type: typeHAMTShard, HashType: 0x12, Fanout: 256}
	tests := []struct {
		name string
		node Node
		pos  shardPos
	}{
		{"fanout 0", makeHAMT(0, nil), shardPos{}},
		{"fanout 3", makeHAMT(3, nil), shardPos{}},
		{"fanout 4", makeHAMT(4, nil), shardPos{}},
		{"fanout 24", makeHAMT(24, nil), shardPos{}},
		{"fanout 2048", makeHAMT(2048, nil), shardPos{}},
		{"fanout 2^31", makeHAMT(1<<31, nil), shardPos{}},
		{"fanout 2^63", makeHAMT(1<<63, nil), shardPos{}},
		{"fanout differs from the one above", makeHAMT(16, []byte{1}, named("0a")...), shardPos{fanout: 256, level: 1}},
		{"hash function", Node{Data: wrongHash.Encode()}, shardPos{}},
		{"bitmap too wide", makeHAMT(8, []byte{0, 1}, named("0a")...), shardPos{}},
		{"bit without link", makeHAMT(256, []byte{3}, named("00a")...), shardPos{}},
		{"link without bit", makeHAMT(256, []byte{1}, named("00a", "01b")...), shardPos{}},
		{"link in another slot", makeHAMT(256, []byte{1}, named("01a")...), shardPos{}},
		{"lower-case slot", makeHAMT(256, []byte{4, 0}, named("0aname")...), shardPos{}},
		{"name too short", makeHAMT(256, []byte{1}, named("0")...), shardPos{}},
		{"no slot in name", makeHAMT(256, []byte{1}, named("")...), shardPos{}},
		{"empty below the top", makeHAMT(256, nil), shardPos{fanout: 256, level: 1}},
		{"deeper than the hash", makeHAMT(256, []byte{1}, named("00a")...), shardPos{fanout: 256, level: 8}},
		{"a plain directory", Node{Data: unixfs{Type: typeDirectory}.Encode()}, shardPos{level: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := decodeUnixFS(tt.node)
			if err != nil {
				t.Fatal(err)
			}
			s, err := readShard(tt.node, u, tt.pos)
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("got %+v, %v", s, err)
			}
			if tt.pos.level > 0 {
				return
			}
			// List and Resolve say the same, whatever is asked for.
			l := m.putNode(t, "", tt.node)
			_, err = Resolve(t.Context(), m, l.CID, "a")
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("Resolve: %v", err)
			}
			if _, err = collect(t.Context(), m, l.CID); !errors.Is(err, ErrMalformed) {
				t.Errorf("List: %v", err)
			}
		})
	}
}

// collect returns the entries of a directory.
func collect(ctx context.Context, get Getter, dir cid.Cid) (all []Entry, err error) {
	for e, err := range List(ctx, get, dir) {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

func TestListRefusesMisplacedName(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "00name", "x") // "name" hashes elsewhere
	dir := m.putNode(t, "", makeHAMT(256, []byte{1}, file))
	if _, err := collect(t.Context(), m, dir.CID); !errors.Is(err, ErrMalformed) {
		t.Errorf("got error %v", err)
	}
}

// Eight shards that fill all their slots with the next would be 2^64 to visit.
func TestListRefusesBomb(t *testing.T) {
	m := newMemStore()
	full := slices.Repeat([]byte{0xff}, 32)
	below := m.putNode(t, "", makeHAMT(256, nil))
	for range 8 {
		var links []Link
		for slot := range 256 {
			links = append(links, Link{fmt.Sprintf("%02X", slot), below.CID, 0})
		}
		below = m.putNode(t, "", makeHAMT(256, full, links...))
	}
	if _, err := collect(t.Context(), m, below.CID); !errors.Is(err, ErrMalformed) {
		t.Errorf("got error %v", err)
	}
}

func TestBuildHAMTCollision(t *testing.T) {
	m := newMemStore()
	l := m.putFile(t, "same", "x")
	if _, err := buildHAMT([]Link{l, l}, metadata{}, m.put); !errors.Is(err, errHAMTDepth) {
		t.Errorf("got error %v", err)
	}
}

// Shards of other widths than ours are read as boxo builds them.
func TestReadBoxoHAMT(t *testing.T) {
	for _, fanout := range []int{8, 16, 64, 512, 1024} {
		t.Run(fmt.Sprint(fanout), func(t *testing.T) {
			b, m := newBoxo(unixfsV1), newMemStore()
			s, err := hamt.NewShard(b.dags, fanout)
			if err != nil {
				t.Fatal(err)
			}
			s.SetCidBuilder(b.builder)
			file := m.putFile(t, "", "x")
			raw, err := merkledag.NewRawNodeWPrefix([]byte("x"), b.builder)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for i := range 700 {
				name := fmt.Sprintf("name %d", i)
				if err := s.Set(t.Context(), name, raw); err != nil {
					t.Fatal(err)
				}
				want = append(want, name)
			}
			n, err := s.Node()
			if err != nil {
				t.Fatal(err)
			}
			get := boxoGetter{b.dags}
			entries, err := collect(t.Context(), get, n.Cid())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range entries {
				if e.CID != file.CID {
					t.Fatalf("%q is %s", e.Name, e.CID)
				}
				got = append(got, e.Name)
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got %d names, want %d", len(got), len(want))
			}
			for _, name := range want {
				if _, err := Resolve(t.Context(), get, n.Cid(), name); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Resolve(t.Context(), get, n.Cid(), "none"); !errors.Is(err, ErrNotExist) || !strings.Contains(err.Error(), `/none"`) {
				t.Errorf("got error %v", err)
			}
		})
	}
}

// FuzzReadShard checks that a shard that is accepted can be listed and searched, and
// that no block makes that panic.
func FuzzReadShard(f *testing.F) {
	m := newMemStore()
	file := m.putFile(f, "00a", "x")
	f.Add(makeHAMT(256, []byte{1}, file).Encode(), "a", uint8(0))
	f.Add(makeHAMT(8, []byte{0xff}).Encode(), "", uint8(20))
	var entries []Link
	for i := range 20 {
		entries = append(entries, m.putFile(f, fmt.Sprint(i), "x"))
	}
	dir, err := buildHAMT(entries, metadata{}, m.put)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.blocks[dir.CID].Data(), "7", uint8(0))
	f.Fuzz(func(t *testing.T, in []byte, name string, level uint8) {
		n, err := DecodeNode(in)
		if err != nil {
			return
		}
		u, err := decodeUnixFS(n)
		if err != nil {
			return
		}
		pos := shardPos{fanout: u.Fanout, level: int(level)}
		s, err := readShard(n, u, pos)
		if err != nil {
			return
		}
		if len(s.slots) != len(n.Links) {
			t.Fatalf("%d slots for %d links", len(s.slots), len(n.Links))
		}
		if slot, ok := s.find(s.slotOf(hashName(name), pos.level)); ok && slot.name == name && name != "" && level == 0 {
			if s.misplaced(pos, slot) {
				t.Fatalf("found %q, which is misplaced", name)
			}
		}
		for _, slot := range s.slots {
			if found, ok := s.find(slot.index); !ok || found != slot {
				t.Fatalf("slot %d not found", slot.index)
			}
			s.misplaced(pos, slot)
			s.below(pos, slot)
		}
	})
}
