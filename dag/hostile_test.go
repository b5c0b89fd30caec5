package dag

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
)

// sampler looks how much memory is in use, now and then while blocks are read.
type sampler struct {
	Getter
	before, most int64
	reads        int
}

func (s *sampler) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if s.reads++; s.reads <= 16 || s.reads%10_000 == 0 {
		s.most = max(s.most, heapInUse()-s.before)
	}
	return s.Getter.Get(ctx, c)
}

// serial keeps look-ahead from reading, so that sampler need not lock.
type serial struct {
	Getter
	turn chan struct{}
}

func (s serial) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.Getter.Get(ctx, c)
}

// hostileDAG is a DAG that no honest program made, and what each way to read it
// says. A nil error is success.
type hostileDAG struct {
	name                                string
	root                                Link
	walk, list, resolve, write, extract error

	text string // in every error about the DAG, nil if empty
}

// chain returns a chain of n nodes above the link, each made by node.
func (p *packed) chain(t testing.TB, n int, end Link, node func(level int, below Link) Node) Link {
	for level := n - 1; level >= 0; level-- {
		end = p.putNode(t, "a", node(level, end))
	}
	return end
}

func hostileDAGs(t testing.TB, m *packed) (all []hostileDAG) {
	leaf := m.putLeaf(t, "a", "x")
	shard := func(name string, n Node) {
		root := m.putNode(t, "", n)
		all = append(all, hostileDAG{name, root, nil, ErrMalformed, ErrMalformed, ErrNotFile, ErrMalformed, root.CID.String()})
	}
	slot := func(names ...string) (links []Link) {
		for _, name := range names {
			links = append(links, Link{name, leaf.CID, 1})
		}
		return links
	}
	shard("fanout 0", makeHAMT(0, nil))
	shard("fanout 0 with links", makeHAMT(0, []byte{1}, slot("00a")...))
	shard("fanout 3", makeHAMT(3, []byte{1}, slot("0a")...))
	shard("fanout 2^31", makeHAMT(1<<31, []byte{1}, slot("00000000a")...))
	shard("fanout 2^31 and a bitmap of 2^20 bytes", makeHAMT(1<<31, make([]byte, 1<<20)))
	shard("fanout 2^64-1", makeHAMT(1<<64-1, []byte{1}, slot("00a")...))
	shard("bitmap wider than the fanout", makeHAMT(256, append([]byte{1}, make([]byte, 32)...), slot("00a")...))
	shard("bitmap of 2^20 bytes", makeHAMT(256, bytes.Repeat([]byte{0xff}, 1<<20), slot("00a")...))
	shard("bit without a link", makeHAMT(256, []byte{3}, slot("00a")...))
	shard("link without a bit", makeHAMT(256, []byte{1}, slot("00a", "01b")...))
	shard("40,000 links for a bit", makeHAMT(256, []byte{1}, slices.Repeat(slot("00a"), 40_000)...))
	shard("bit of another link", makeHAMT(256, []byte{2}, slot("00a")...))

	size := func(name string, u unixfs) {
		file := m.putNode(t, "a", Node{Links: []Link{leaf}, Data: u.Encode()})
		all = append(all, hostileDAG{"file, " + name, file, nil, ErrMalformed, ErrMalformed, ErrMalformed, ErrMalformed, file.CID.String()},
			hostileDAG{"entry, " + name, m.putDir(t, file), nil, ErrMalformed, ErrMalformed, ErrNotFile, ErrMalformed, file.CID.String()})
	}
	size("2^64-1 bytes", unixfs{Type: typeFile, FileSize: 1<<64 - 1, BlockSizes: []uint64{1}})
	size("a part of 2^64-1 bytes", unixfs{Type: typeFile, FileSize: 1, BlockSizes: []uint64{1<<64 - 1}})
	size("parts that wrap round", unixfs{Type: typeFile, FileSize: 1, BlockSizes: []uint64{1<<64 - 1, 2}})
	size("more sizes than links", unixfs{Type: typeFile, BlockSizes: make([]uint64, 1<<19)})
	huge := m.putDir(t, Link{"a", leaf.CID, 1<<64 - 1})
	all = append(all, hostileDAG{"entry of 2^64-1 bytes", huge, nil, nil, nil, ErrNotFile, nil, ""})

	// The same child a million times: as the part of a file, and as an entry.
	const wide, high = 40_000, 25 / slowdown
	file := m.putNode(t, "a", Node{Links: slices.Repeat([]Link{{CID: leaf.CID}}, wide),
		Data: unixfs{Type: typeFile, FileSize: wide, BlockSizes: slices.Repeat([]uint64{1}, wide)}.Encode()})
	million := m.putNode(t, "a", Node{Links: slices.Repeat([]Link{{CID: file.CID}}, high),
		Data: unixfs{Type: typeFile, FileSize: wide * high, BlockSizes: slices.Repeat([]uint64{wide}, high)}.Encode()})
	all = append(all, hostileDAG{"the same part a million times", million, nil, ErrNotDir, ErrNotDir, nil, nil, million.CID.String()})
	twins := m.putDir(t, slices.Repeat([]Link{leaf}, wide)...)
	var dirs []Link
	for i := range high {
		dirs = append(dirs, Link{fmt.Sprint("a", i), twins.CID, 1 << 40})
	}
	dirs[0].Name = "a"
	all = append(all, hostileDAG{"the same entry a million times", m.putDir(t, dirs...), nil, nil, nil, ErrNotFile, ErrUnsafeName, `"a"`})

	const long = 100_000
	dir := m.chain(t, long, leaf, func(_ int, below Link) Node {
		return Node{Links: []Link{below}, Data: unixfs{Type: typeDirectory}.Encode()}
	})
	all = append(all, hostileDAG{"a chain of 100,000 directories", dir, ErrTooLarge, nil, nil, ErrNotFile, ErrTooLarge, ""})
	parts := m.chain(t, long, leaf, func(_ int, below Link) Node {
		return Node{Links: []Link{below}, Data: unixfs{Type: typeFile, FileSize: 1, BlockSizes: []uint64{1}}.Encode()}
	})
	all = append(all, hostileDAG{"a chain of 100,000 parts", parts, ErrTooLarge, ErrNotDir, ErrNotDir, ErrTooLarge, ErrTooLarge, parts.CID.String()})
	shards := m.chain(t, long, leaf, func(level int, below Link) Node {
		index := byte(0)
		if level < 8 {
			index = byte(hashName("a") >> (56 - 8*level)) // where Resolve looks
		}
		below.Name = fmt.Sprintf("%02X", index)
		bitmap := make([]byte, 32)
		bitmap[31-index/8] = 1 << (index % 8)
		return makeHAMT(256, trimZeros(bitmap), below)
	})
	all = append(all, hostileDAG{"a chain of 100,000 shards", shards, ErrTooLarge, ErrMalformed, ErrMalformed, ErrNotFile, ErrMalformed, ""})

	unverifiable := func(name string, c cid.Cid) {
		dir := m.putDir(t, Link{"a", c, 1})
		list, resolve := errUnverifiable, errUnverifiable
		if c.Type() == cid.Raw {
			list, resolve = nil, nil // which do not read leaves
		}
		all = append(all, hostileDAG{name, dir, errUnverifiable, list, resolve, ErrNotFile, errUnverifiable, c.String()})
		if c.Type() == cid.Raw {
			resolve = ErrNotDir // whatever it is
		}
		all = append(all, hostileDAG{name + ", the root", Link{CID: c}, errUnverifiable, errUnverifiable, resolve, errUnverifiable, errUnverifiable, c.String()})
	}
	hash := func(code uint64, n int) multihash.Multihash {
		h, err := multihash.Encode(make([]byte, n), code)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	for _, codec := range []uint64{cid.Raw, cid.DagProtobuf} {
		unverifiable("identity CID of 129 bytes", cid.NewCidV1(codec, hash(multihash.IDENTITY, 129)))
		unverifiable("unknown hash", cid.NewCidV1(codec, hash(0x300001, 32)))
		unverifiable("MD5", cid.NewCidV1(codec, hash(multihash.MD5, 16)))
		unverifiable("SHA2-256 of 8 bytes", cid.NewCidV1(codec, hash(multihash.SHA2_256, 8)))
		unverifiable("SHA2-256 of no bytes", cid.NewCidV1(codec, hash(multihash.SHA2_256, 0)))
	}
	return all
}

// Whatever a publisher made: each way to read it ends, with an error that names the
// thing where it is none that can be read, and in little memory.
func TestHostileDAGs(t *testing.T) {
	const limit = 40 << 20 // bytes in use beside the blocks
	m := newPacked()
	for _, d := range hostileDAGs(t, m) {
		t.Run(d.name, func(t *testing.T) {
			ctx := t.Context()
			for _, way := range []struct {
				name string
				want error
				read func(get Getter) error
			}{
				{"Walk", d.walk, func(get Getter) error {
					return Walk(ctx, get, d.root.CID, func(cid.Cid) error { return nil })
				}},
				{"WriteCAR", d.walk, func(get Getter) error { return WriteCAR(ctx, get, d.root.CID, io.Discard) }},
				{"List", d.list, func(get Getter) error {
					for _, err := range List(ctx, get, d.root.CID) {
						if err != nil {
							return err
						}
					}
					return nil
				}},
				{"Resolve", d.resolve, func(get Getter) error {
					_, err := Resolve(ctx, get, d.root.CID, "a")
					return err
				}},
				{"WriteFile", d.write, func(get Getter) error { return WriteFile(ctx, get, d.root.CID, io.Discard) }},
				{"Extract", d.extract, func(get Getter) error {
					parent := t.TempDir()
					_, err := Extract(ctx, get, d.root.CID, filepath.Join(parent, "x"), ExtractOptions{})
					if err != nil {
						onlyEntry(t, parent)
					}
					return err
				}},
			} {
				if way.name == "Extract" && d.write == nil {
					continue // it is WriteFile
				}
				s := &sampler{Getter: m, before: heapInUse()}
				err := way.read(serial{s, make(chan struct{}, 1)})
				if !errors.Is(err, way.want) {
					t.Errorf("%s: got error %v, want %v", way.name, err, way.want)
				}
				if err != nil && way.want != ErrNotFile && !strings.Contains(err.Error(), d.text) {
					t.Errorf("%s: the error does not name %s: %v", way.name, d.text, err)
				}
				if err != nil && len(err.Error()) > 20_000 {
					t.Errorf("%s: an error of %d bytes: %.200s", way.name, len(err.Error()), err)
				}
				if s.most > limit {
					t.Errorf("%s: %d bytes were in use", way.name, s.most)
				}
			}
		})
	}
}

// A path may have as many segments as a message has room for; what it takes to follow
// them grows with their number, not with its square.
func TestResolveLongPath(t *testing.T) {
	const long = 50_000
	p := newPacked()
	root := p.chain(t, long, p.putLeaf(t, "a", "x"), func(_ int, below Link) Node {
		return Node{Links: []Link{below}, Data: unixfs{Type: typeDirectory}.Encode()}
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	e, err := Resolve(t.Context(), p, root.CID, strings.Repeat("a/", long))
	if err != nil || e.Kind != KindFile {
		t.Errorf("%+v, %v", e, err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > long*4<<10 {
		t.Errorf("took %d bytes in all", n)
	}
	_, err = Resolve(t.Context(), p, root.CID, "a//a/b/c")
	if want := fmt.Sprintf("%q: %v", root.CID.String()+"/a/a/b", ErrNotExist); err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

// An extraction that is refused at the bottom of a tree deeper than any path may be
// long leaves nothing behind.
func TestExtractDeepFails(t *testing.T) {
	t.Parallel() // making the directories takes most of its time
	m := newMemStore()
	// A file with a directory as a part, which is found out when it is written.
	part := unixfs{Type: typeFile, FileSize: 1, BlockSizes: []uint64{1}}
	root := m.putNode(t, "a", Node{Links: []Link{m.putDir(t, "")}, Data: part.Encode()})
	for range MaxTreeDepth {
		root = m.putDir(t, "a", root)
	}
	parent := t.TempDir()
	_, err := Extract(t.Context(), m, root.CID, filepath.Join(parent, "x"), ExtractOptions{})
	if !isRefusal(err) {
		t.Errorf("got error %v", err)
	}
	onlyEntry(t, parent)
}
