package dag

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ipfs/boxo/ipld/merkledag"
	boxounixfs "github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/boxo/ipld/unixfs/importer/trickle"

	chunker "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

func content(t testing.TB, get Getter, file cid.Cid) string {
	t.Helper()
	var buf bytes.Buffer
	if err := WriteFile(t.Context(), get, file, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestWriteFile(t *testing.T) {
	small := profile{chunkSize: 10, maxLinks: 3, maxDirSize: 1000}
	for _, size := range []int{0, 1, 10, 11, 30, 31, 90, 91, 5000} {
		want := randomBytes(size, byte(size))
		path := tree{"f": want}.write(t) + "/f"
		m, res := importTree(t, small, path, ImportOptions{})
		if got := content(t, m, res.Root); got != want {
			t.Errorf("%d bytes: got %d others", size, len(got))
		}
	}
}

// Files as others lay them out: leaves in dag-pb, leaves at different depths, data in
// inner nodes.
func TestWriteFileOfOthers(t *testing.T) {
	want := randomBytes(5000, 5)
	for _, raw := range []bool{true, false} {
		b := newBoxo(unixfsV1)
		params := helpers.DagBuilderParams{Maxlinks: 3, RawLeaves: raw, CidBuilder: b.builder, Dagserv: b.dags}
		db, err := params.New(chunker.NewSizeSplitter(strings.NewReader(want), 10))
		if err != nil {
			t.Fatal(err)
		}
		n, err := trickle.Layout(db)
		if err != nil {
			t.Fatal(err)
		}
		if got := content(t, boxoGetter{b.dags}, n.Cid()); got != want {
			t.Errorf("trickle, raw leaves %v: got %d other bytes", raw, len(got))
		}
	}
	old := merkledag.NodeWithData(boxounixfs.FilePBData([]byte("old"), 3)) // CIDv0
	b, err := blockstore.NewBlock(old.Cid(), old.RawData())
	if err != nil {
		t.Fatal(err)
	}
	m := newMemStore()
	if err := m.put(b); err != nil {
		t.Fatal(err)
	}
	if got := content(t, m, b.CID()); got != "old" {
		t.Errorf("got %q", got)
	}
}

func TestWriteFileErrors(t *testing.T) {
	m := newMemStore()
	leaf := m.putFile(t, "", "12345")
	file := func(total uint64, data string, sizes []uint64, links ...Link) Link {
		u := unixfs{Type: typeFile, FileSize: total, BlockSizes: sizes}
		if data != "" {
			u.Data = []byte(data)
		}
		return m.putNode(t, "", Node{Links: links, Data: u.Encode()})
	}
	dir := m.putDir(t, "", leaf)
	lost := Link{CID: blockstore.Sum(cid.Raw, []byte("lost")).CID(), Size: 4}
	inner := file(5, "", []uint64{5}, leaf)
	tests := []struct {
		name string
		root Link
		want error
	}{
		{"directory", dir, ErrNotFile},
		{"directory as a part", file(5, "", []uint64{5}, dir), ErrNotFile},
		{"leaf longer than claimed", file(4, "", []uint64{4}, leaf), ErrMalformed},
		{"leaf shorter than claimed", file(6, "", []uint64{6}, leaf), ErrMalformed},
		{"leaf of 2^63 bytes", file(1<<63-1, "", []uint64{1<<63 - 1}, leaf), ErrMalformed},
		{"node longer than claimed", file(4, "", []uint64{4}, inner), ErrMalformed},
		{"size 2^64-1", file(1<<64-1, "", []uint64{5}, leaf), ErrMalformed},
		{"size less than the parts", file(5, "x", []uint64{5}, leaf), ErrMalformed},
		{"a size too few", file(5, "", []uint64{5}, leaf, leaf), ErrMalformed},
		{"lost leaf", file(9, "", []uint64{5, 4}, leaf, lost), errNotHeld},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var buf bytes.Buffer
			if err := WriteFile(t.Context(), m, tt.root.CID, &buf); !errors.Is(err, tt.want) {
				t.Errorf("got %q, %v", buf.String(), err)
			}
			if e, err := Stat(t.Context(), m, tt.root.CID); err == nil && int64(buf.Len()) > e.Size {
				t.Errorf("wrote %d bytes of %d", buf.Len(), e.Size)
			}
		})
	}

	deep := leaf
	for range 100 {
		deep = file(5, "", []uint64{5}, deep)
	}
	if err := WriteFile(t.Context(), m, deep.CID, &bytes.Buffer{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("100 nodes deep: %v", err)
	}

	// Nothing, 100^20 times over.
	bomb := m.putFile(t, "", "")
	for range 20 {
		links, sizes := make([]Link, 100), make([]uint64, 100)
		for i := range links {
			links[i] = bomb
		}
		bomb = file(0, "", sizes, links...)
	}
	if got := content(t, m, bomb.CID); got != "" {
		t.Errorf("got %q", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteFile(ctx, m, inner.CID, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

// gate holds reads up until a test lets them go.
type gate struct {
	Getter
	arrived chan struct{}
	open    chan struct{}
}

func (g gate) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if c.Type() == cid.Raw {
		g.arrived <- struct{}{}
		<-g.open
	}
	return g.Getter.Get(ctx, c)
}

// While one leaf is waited for, the next eight are under way, and not more.
func TestWriteFileLooksAhead(t *testing.T) {
	want := randomBytes(300, 1)
	m, res := importTree(t, profile{chunkSize: 10, maxLinks: 100}, tree{"f": want}.write(t)+"/f", ImportOptions{})
	g := gate{m, make(chan struct{}), make(chan struct{})}
	done := make(chan error)
	var buf bytes.Buffer
	go func() { done <- WriteFile(t.Context(), g, res.Root, &buf) }()
	for range 1 + lookAhead {
		<-g.arrived
	}
	select {
	case <-g.arrived:
		t.Error("more reads under way than looked ahead")
	default:
	}
	go func() {
		for range 30 - 1 - lookAhead {
			<-g.arrived
		}
	}()
	close(g.open)
	if err := <-done; err != nil || buf.String() != want {
		t.Errorf("got %d bytes, %v", buf.Len(), err)
	}
}
