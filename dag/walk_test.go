package dag

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
)

// walkAll returns what Walk visits.
func walkAll(t testing.TB, get Getter, root cid.Cid) (visited []cid.Cid, err error) {
	t.Helper()
	err = Walk(t.Context(), get, root, func(c cid.Cid) error {
		visited = append(visited, c)
		return nil
	})
	return visited, err
}

// canonicalOrder says the same as Walk in the fewest words.
func canonicalOrder(t testing.TB, m *memStore, c cid.Cid, seen map[cid.Cid]bool) (order []cid.Cid) {
	t.Helper()
	if seen[c] {
		return nil
	}
	seen[c] = true
	order = append(order, c)
	links, err := Links(m.blocks[c])
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		order = append(order, canonicalOrder(t, m, l.CID, seen)...)
	}
	return order
}

func TestWalkOrder(t *testing.T) {
	m, res := importTree(t, profile{chunkSize: 100, maxLinks: 4, maxDirSize: 500}, siteTree().write(t), ImportOptions{})
	want := canonicalOrder(t, m, res.Root, map[cid.Cid]bool{})
	m.gets = 0
	got, err := walkAll(t, m, res.Root)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("visited %d blocks, want %d, %v", len(got), len(want), err)
	}
	nodes := 0
	for _, c := range got {
		if c.Type() == cid.DagProtobuf {
			nodes++
		}
	}
	if m.gets != nodes {
		t.Errorf("read %d blocks for %d nodes", m.gets, nodes)
	}
}

func TestWalkErrors(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "f", "x")
	missing := Link{"m", blockstore.Sum(cid.DagProtobuf, []byte("missing")).CID(), 1}
	broken := blockstore.Sum(cid.DagProtobuf, []byte("broken"))
	cbor := blockstore.Sum(cid.DagCBOR, []byte{0xa0})
	for _, b := range []blockstore.Block{broken, cbor} {
		if err := m.put(b); err != nil {
			t.Fatal(err)
		}
	}
	md5, err := multihash.Encode(make([]byte, 16), multihash.MD5)
	if err != nil {
		t.Fatal(err)
	}
	short, err := multihash.Encode(make([]byte, 8), multihash.SHA2_256)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		link Link
		want error
		text string
	}{
		"missing":        {missing, errNotHeld, missing.CID.String()},
		"broken":         {Link{"b", broken.CID(), 1}, ErrMalformed, broken.CID().String()},
		"other codec":    {Link{"c", cbor.CID(), 1}, ErrCodec, cbor.CID().String()},
		"unsafe hash":    {Link{"h", cid.NewCidV1(cid.Raw, md5), 1}, nil, "cannot be verified"},
		"cut hash":       {Link{"h", cid.NewCidV1(cid.Raw, short), 1}, nil, "cannot be verified"},
		"long identity":  {Link{"i", identityCID(t, cid.Raw, make([]byte, 129)), 1}, nil, "cannot be verified"},
		"broken in link": {Link{"i", identityCID(t, cid.DagProtobuf, []byte("x")), 1}, ErrMalformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := m.putDir(t, "", file, tt.link)
			_, err := walkAll(t, m, root.CID)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got error %v", err)
			}
		})
	}
	stop := errors.New("stop")
	if err := Walk(t.Context(), m, file.CID, func(cid.Cid) error { return stop }); err != stop {
		t.Errorf("got error %v", err)
	}
}

// WalkAll visits what Walk does, in the same order, and leaves again where links lead to
// them again.
func TestWalkAll(t *testing.T) {
	m := newMemStore()
	a, b := m.putFile(t, "a", "the same"), m.putFile(t, "b", "the same")
	dir := m.putDir(t, "dir", a, b)
	root := m.putDir(t, "", a, dir, Link{"dir again", dir.CID, dir.Size}, b)
	var got []cid.Cid
	if err := WalkAll(t.Context(), m, root.CID, func(c cid.Cid) error {
		got = append(got, c)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []cid.Cid{root.CID, a.CID, dir.CID, a.CID, a.CID, a.CID}; !slices.Equal(got, want) {
		t.Errorf("visited %v, want %v", got, want)
	}
	var once []cid.Cid
	for _, c := range got {
		if !slices.Contains(once, c) {
			once = append(once, c)
		}
	}
	if want, err := walkAll(t, m, root.CID); err != nil || !slices.Equal(once, want) {
		t.Errorf("visited %v, want %v, %v", once, want, err)
	}
}

// Nodes and files may be inside their own CIDs.
func TestWalkIdentity(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "f", "x")
	inner := Node{Links: []Link{file}, Data: unixfs{Type: typeDirectory}.Encode()}
	root := m.putDir(t, "",
		Link{"dir", identityCID(t, cid.DagProtobuf, inner.Encode()), 1},
		Link{"raw", identityCID(t, cid.Raw, []byte("hello")), 5})
	got, err := walkAll(t, m, root.CID)
	if want := []cid.Cid{root.CID, file.CID}; err != nil || !slices.Equal(got, want) {
		t.Errorf("visited %v, %v, want %v", got, err, want)
	}
	if e, err := Resolve(t.Context(), m, root.CID, "dir/f"); err != nil || e.CID != file.CID {
		t.Errorf("got %+v, %v", e, err)
	}
	if got := content(t, m, identityCID(t, cid.Raw, []byte("hello"))); got != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestWalkLimits(t *testing.T) {
	t.Parallel()
	m := newMemStore()
	chain := m.putDir(t, "d")
	for range 100_000 {
		chain = m.putDir(t, "d", chain)
	}
	if _, err := walkAll(t, m, chain.CID); !errors.Is(err, ErrTooLarge) {
		t.Errorf("chain of 100,000: %v", err)
	}

	// Nodes as large as they may be, each of which leads on with its first link:
	// 40,000 links at a time have to be remembered.
	var wide []Link
	file := m.putFile(t, "", "x")
	for range 40_000 {
		wide = append(wide, file)
	}
	below := file
	for range 20 {
		wide[0] = below
		below = m.putDir(t, "", wide...)
	}
	if _, err := walkAll(t, m, below.CID); !errors.Is(err, ErrTooLarge) {
		t.Errorf("wide nodes: %v", err)
	}
}

// The same child a million times is one block.
func TestWalkBomb(t *testing.T) {
	m := newMemStore()
	below := m.putFile(t, "f", "x")
	for range 50 {
		var links []Link
		for i := range 100 {
			below.Name = fmt.Sprint(i)
			links = append(links, below)
		}
		below = m.putDir(t, "", links...)
	}
	got, err := walkAll(t, m, below.CID)
	if err != nil || len(got) != 51 {
		t.Errorf("visited %d blocks, %v", len(got), err)
	}
}
