package dag

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

func TestSurvey(t *testing.T) {
	m, res := importTree(t, profile{chunkSize: 100, maxLinks: 3, maxDirSize: 200}, siteTree().write(t), ImportOptions{})
	sum, err := survey(t.Context(), m, &place{depth: -1}, Entry{Name: "x", CID: res.Root, Kind: KindDirectory})
	if err != nil {
		t.Fatal(err)
	}
	if sum.files != int64(res.Files) || sum.bytes != res.Bytes || sum.entries != int64(res.Files+res.Dirs+res.Symlinks) {
		t.Errorf("imported %+v, survey found %+v", res, sum)
	}
	if sum.space%spaceUnit != 0 || sum.space < max(sum.bytes, sum.entries*spaceUnit) || sum.space > sum.bytes+sum.entries*spaceUnit {
		t.Errorf("takes %d bytes on disk: %+v", sum.space, sum)
	}
}

func TestSpaceOf(t *testing.T) {
	for size, want := range map[int64]int64{0: 4096, 1: 4096, 4096: 4096, 4097: 8192, math.MaxInt64: math.MaxInt64 &^ 4095} {
		if got := spaceOf(size); got != want {
			t.Errorf("%d bytes take %d, want %d", size, got, want)
		}
	}
}

// repeated returns a directory in which the same directory is n times, and so on for
// the given number of levels, down to one with file.
func repeated(t *testing.T, m *memStore, n, levels int, file Link) Link {
	t.Helper()
	d := m.putDir(t, "", file)
	for range levels {
		links := make([]Link, n)
		for i := range links {
			links[i] = Link{fmt.Sprintf("%04d", i), d.CID, 1}
		}
		d = m.putDir(t, "", links...)
	}
	return d
}

// Trees of a few blocks that stand for more than any disk has are refused after those
// few, and leave nothing.
func TestExtractBounds(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "f", "x")
	mib := m.putFile(t, "", strings.Repeat("x", 1<<20))
	huge := filePartOf{mib, 1 << 20}
	for range 4 { // to 2^60 bytes
		huge = huge.times(t, m, 1<<10)
	}
	huge.link.Name = "huge"
	wide := make([]Link, 1000)
	for i := range wide {
		wide[i] = Link{fmt.Sprintf("%04d", i), huge.link.CID, 1}
	}
	deep := m.putDir(t, "d")
	for range MaxTreeDepth {
		deep = m.putDir(t, "d", deep)
	}
	tests := []struct {
		name string
		root Link
		want error
		text string
	}{
		{"file", huge.link, ErrNoSpace, "1.2 EB are needed"},
		{"file in a directory", m.putDir(t, "", file, huge.link), ErrNoSpace, "1.2 EB are needed"},
		{"more than an int64", m.putDir(t, "", wide...), ErrNoSpace, "9.2 EB are needed"},
		{"entries", repeated(t, m, 1000, 10, file), ErrTooLarge, "more than 33554432 entries"},
		{"doubled", repeated(t, m, 2, 1000, file), ErrTooLarge, "more than 33554432 entries"},
		{"depth", m.putDir(t, "", file, deep), ErrTooLarge, "d/d/d"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			blocks := 0
			if err := Walk(t.Context(), m, tt.root.CID, func(cid.Cid) error { blocks++; return nil }); err != nil {
				t.Fatal(err)
			}
			m.gets = 0
			_, err := Extract(t.Context(), m, tt.root.CID, filepath.Join(parent, "dest"), ExtractOptions{})
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got error %.200v", err)
			}
			if m.gets > 3*blocks {
				t.Errorf("read blocks %d times, there are %d", m.gets, blocks)
			}
			onlyEntry(t, parent)
		})
	}
}

// filePartOf is a file or a part of one, and its size.
type filePartOf struct {
	link Link
	size uint64
}

// times returns a file that is p n times.
func (p filePartOf) times(t *testing.T, m *memStore, n int) filePartOf {
	t.Helper()
	var node Node
	u := unixfs{Type: typeFile}
	for range n {
		node.Links = append(node.Links, Link{CID: p.link.CID, Size: p.size})
		u.BlockSizes = append(u.BlockSizes, p.size)
		u.FileSize += p.size
	}
	node.Data = u.Encode()
	return filePartOf{m.putNode(t, "", node), u.FileSize}
}

// Only the directory says how large a file of one raw block is. One that lies gets no
// further than the free space either, and one that says too much is believed no more
// than a block.
func TestExtractLyingDirectory(t *testing.T) {
	m := newMemStore()
	b := blockstore.Sum(cid.Raw, bytes.Repeat([]byte("x"), 1000))
	if err := m.put(b); err != nil {
		t.Fatal(err)
	}
	e := rawEntry("f", Link{CID: b.CID(), Size: 10})
	for _, tt := range []struct {
		room int64
		want error
	}{{990, nil}, {989, ErrNoSpace}} {
		x := &extractor{get: m}
		x.room.Store(tt.room)
		var out bytes.Buffer
		err := WriteFile(t.Context(), m, e.CID, &fileSink{x: x, w: &out, claimed: e.Size})
		if !errors.Is(err, tt.want) || (err == nil) != (out.Len() == 1000) {
			t.Errorf("with room for %d: %d bytes, %v", tt.room, out.Len(), err)
		}
	}
	dir := m.putDir(t, "", Link{"more", b.CID(), math.MaxUint64}, Link{"less", b.CID(), 0})
	res, err := Extract(t.Context(), m, dir.CID, filepath.Join(t.TempDir(), "x"), ExtractOptions{})
	if err != nil || res.Bytes != 2000 {
		t.Errorf("%+v, %v", res, err)
	}
}
