package dag

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
)

const million = 1_000_000 / slowdown

// heapInUse returns the bytes of what is reachable. It runs collections for that: what other
// goroutines drop while one runs counts as reachable in it, so the least of three is taken.
func heapInUse() int64 {
	least := int64(math.MaxInt64)
	for range 3 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		least = min(least, int64(m.HeapAlloc))
	}
	return least
}

// heapGrowth returns a function that checks how many bytes more are reachable than when
// heapGrowth was called.
func heapGrowth(t testing.TB) func(what string, limit int64) {
	t.Helper()
	before := heapInUse()
	return func(what string, limit int64) {
		t.Helper()
		if grown := heapInUse() - before; grown > limit {
			t.Errorf("%s: %d bytes more are in use, want at most %d", what, grown, limit)
		} else {
			t.Logf("%s: %.1f MB", what, float64(grown)/1e6)
		}
	}
}

// leafCID returns the CID of a leaf that nobody holds. Listings and walks do not read
// leaves.
func leafCID(t testing.TB, i int) cid.Cid {
	var digest [32]byte
	binary.BigEndian.PutUint64(digest[:], uint64(i))
	h, err := multihash.Encode(digest[:], multihash.SHA2_256)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(cid.Raw, h)
}

// packed is a store that takes little more memory than its blocks: one run of bytes, in
// which a map without pointers says where.
type packed struct {
	bytes  []byte
	blocks map[[32]byte][2]uint32
}

func newPacked() *packed { return &packed{blocks: map[[32]byte][2]uint32{}} }

func digestOf(c cid.Cid) [32]byte { return [32]byte([]byte(c.Hash())[2:]) }

func (p *packed) put(b blockstore.Block) error {
	p.blocks[digestOf(b.CID())] = [2]uint32{uint32(len(p.bytes)), uint32(len(b.Data()))}
	p.bytes = append(p.bytes, b.Data()...)
	return nil
}

func (p *packed) Get(_ context.Context, c cid.Cid) (blockstore.Block, error) {
	at, ok := p.blocks[digestOf(c)]
	if !ok {
		return blockstore.Block{}, errNotHeld
	}
	return blockstore.NewBlock(c, p.bytes[at[0]:][:at[1]:at[1]])
}

// putNode, putLeaf and putDir are those of memStore.
func (p *packed) putNode(t testing.TB, name string, n Node) Link {
	t.Helper()
	l, err := putNode(n, p.put)
	if err != nil {
		t.Fatal(err)
	}
	l.Name = name
	return l
}

func (p *packed) putLeaf(t testing.TB, name, data string) Link {
	t.Helper()
	leaf, err := putLeaf([]byte(data), p.put)
	if err != nil {
		t.Fatal(err)
	}
	leaf.link.Name = name
	return leaf.link
}

func (p *packed) putDir(t testing.TB, entries ...Link) Link {
	t.Helper()
	return p.putNode(t, "", Node{Links: entries, Data: unixfs{Type: typeDirectory}.Encode()})
}

// A folder of a million files is built, listed, walked and searched; the memory that
// a listing takes does not depend on how many there are.
func TestMillionEntries(t *testing.T) {
	name := func(i int) string { return fmt.Sprintf("page-%07d.html", i) }
	entries := make([]Link, million)
	for i := range entries {
		entries[i] = Link{name(i), leafCID(t, i), uint64(i)}
	}
	p := newPacked()
	root, err := unixfsV1.putDirectory(entries, metadata{}, p.put)
	if err != nil {
		t.Fatal(err)
	}
	entries = nil
	t.Logf("%d shards of %.1f MB", len(p.blocks), float64(len(p.bytes))/1e6)

	grown := heapGrowth(t)
	listed, sum := 0, uint64(0)
	for e, err := range List(t.Context(), p, root.CID) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Name != name(int(e.Size)) {
			t.Fatalf("got %+v", e)
		}
		listed++
		sum += uint64(e.Size)
		if listed%(million/4) == 0 {
			grown(fmt.Sprintf("List after %d", listed), 4<<20)
		}
	}
	if listed != million || sum != million*(million-1)/2 {
		t.Errorf("%d entries that sum up to %d", listed, sum)
	}

	visited := 0
	err = Walk(t.Context(), p, root.CID, func(cid.Cid) error {
		visited++
		if visited == million+len(p.blocks) {
			grown("Walk at its end", int64(visited)*50)
		}
		return nil
	})
	if err != nil || visited != million+len(p.blocks) {
		t.Errorf("visited %d blocks, %v", visited, err)
	}

	for _, i := range []int{0, 1, million / 2, million - 1} {
		if e, err := Resolve(t.Context(), p, root.CID, name(i)); err != nil || e.CID != leafCID(t, i) {
			t.Errorf("%s: %+v, %v", name(i), e, err)
		}
	}
	if _, err := Resolve(t.Context(), p, root.CID, name(million)); !errors.Is(err, ErrNotExist) {
		t.Errorf("got error %v", err)
	}
}

// The same with files on disk, and no more of them than make a folder sharded: a disk
// makes some ten thousand a second.
func TestManyFiles(t *testing.T) {
	const files = 4_500
	top := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(top, fmt.Sprintf("page-%07d.html", i)), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, res := importTree(t, unixfsV1, top, ImportOptions{})
	if res.Files != files || res.Dirs != 1 {
		t.Errorf("%+v", res)
	}
	dest := filepath.Join(t.TempDir(), "out")
	out, err := Extract(t.Context(), m, res.Root, dest, ExtractOptions{})
	if err != nil || out.Files != files || out.Bytes != res.Bytes {
		t.Fatalf("%+v, %v", out, err)
	}
	if _, again := importTree(t, unixfsV1, dest, ImportOptions{}); again.Root != res.Root {
		t.Errorf("became %s, was %s", again.Root, res.Root)
	}
}

// Names of all bytes that a file system allows, and as long as it allows, come back as
// they were.
func TestNamesRoundTrip(t *testing.T) {
	var all []byte
	for b := 1; b < 256; b++ {
		if b != '/' {
			all = append(all, byte(b))
		}
	}
	names := []string{
		string(all), // 254 bytes, hardly any of them UTF-8
		strings.Repeat("n", 255),
		strings.Repeat("\xff", 255),
		strings.Repeat("é", 127) + "x",    // 255 bytes
		"caf\xe9", "caf\xe8", "caf\ufffd", // the same, once something replaces what is not UTF-8
		"é", "e\u0301", // composed and not
		"\xc0\xaf..", // an overlong slash
		"a\nb", "\x1b[2J", " ", "\\", `C:\x`, "-o", "*", "%2F", "con",
	}
	tr := tree{}
	for _, name := range names {
		tr[name+"/"+name] = "in " + name
	}
	path := tr.write(t)
	want := readTree(t, path)
	for profileName, p := range map[string]profile{
		"plain":   unixfsV1,
		"sharded": {chunkSize: 1 << 20, maxLinks: 1024, maxDirSize: 100},
	} {
		t.Run(profileName, func(t *testing.T) {
			m, res := importTree(t, p, path, ImportOptions{})
			if all, err := collect(t.Context(), m, res.Root); err != nil || len(all) != len(names) {
				t.Errorf("%d entries, %v", len(all), err)
			}
			for _, name := range names {
				e, err := Resolve(t.Context(), m, res.Root, name+"/"+name)
				if err != nil || e.Name != name || content(t, m, e.CID) != "in "+name {
					t.Errorf("%q: %+v, %v", name, e, err)
				}
			}
			dest := filepath.Join(t.TempDir(), "out")
			if _, err := Extract(t.Context(), m, res.Root, dest, ExtractOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := readTree(t, dest); !maps.Equal(got, want) {
				t.Errorf("extracted %d entries, of %d, or others", len(got), len(want))
			}
		})
	}
}

// A hole in a file is read as zeros like any others: it costs time, and one block. Out
// comes a file of as many zeros, without the hole.
func TestSparseFile(t *testing.T) {
	const size = 1<<28/slowdown + 5
	path := filepath.Join(t.TempDir(), "hole")
	if err := os.WriteFile(path, []byte("start"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	m, res := importTree(t, unixfsV1, path, ImportOptions{})
	var stored int
	for _, b := range m.blocks {
		stored += len(b.Data())
	}
	if res.Bytes != size || stored > 3<<20+200<<10 {
		t.Errorf("%d bytes were read, %d stored", res.Bytes, stored)
	}
	var got zeros
	if err := WriteFile(t.Context(), m, res.Root, &got); err != nil || got.bytes != size || got.others != len("start") {
		t.Errorf("%+v, %v", got, err)
	}
}

// zeros counts what is written to it, and what of it is not zero.
type zeros struct{ bytes, others int }

func (z *zeros) Write(p []byte) (int, error) {
	z.bytes += len(p)
	z.others += len(p) - bytes.Count(p, []byte{0})
	return len(p), nil
}
