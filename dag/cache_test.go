package dag

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// settled returns a cache with all files of an import, as it would have been had the
// files changed long before.
func settled(t testing.TB, m *memStore, top string, known *FileCache) (*FileCache, ImportResult) {
	t.Helper()
	res, err := importAt(m, top, ImportOptions{Cache: known}, later())
	if err != nil {
		t.Fatal(err)
	}
	return res.Cache, res
}

// plain is the layout of imports without options.
var plain = (&importer{profile: unixfsV1}).layout()

// later is when files that are there now have not changed for long.
func later() time.Time { return time.Now().Add(time.Hour) }

func importAt(m *memStore, top string, opts ImportOptions, start time.Time) (ImportResult, error) {
	opts.start = start
	return Import(context.Background(), m, top, opts)
}

// needStamps skips a test where the system has no stamps.
func needStamps(t testing.TB) {
	info, err := os.Lstat(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := stampOf(info); !ok {
		t.Skip("no stamps on this system")
	}
}

// encode returns what c writes.
func encode(t testing.TB, c *FileCache) []byte {
	t.Helper()
	var out bytes.Buffer
	n, err := c.WriteTo(&out)
	if err != nil || n != int64(out.Len()) || n != int64(c.Len()*CachedFileSize) {
		t.Fatalf("wrote %d bytes of %d files, %v", n, c.Len(), err)
	}
	return out.Bytes()
}

func TestImportCached(t *testing.T) {
	needStamps(t)
	tr := siteTree()
	tr["same as big"] = tr["big/three.bin"]
	top := tr.write(t)
	m := newMemStore()
	cache, first := settled(t, m, top, nil)
	if first.Cached != 0 {
		t.Errorf("%d of the first import's files were cached", first.Cached)
	}
	again, second := settled(t, m, top, cache)
	if second.Cached != first.Files || second.NewBytes != 0 {
		t.Errorf("%d of %d files were cached, %d bytes new", second.Cached, first.Files, second.NewBytes)
	}
	if second.Root != first.Root || second.Files != first.Files || second.Bytes != first.Bytes || second.Dirs != first.Dirs {
		t.Errorf("got %+v, then %+v", first, second)
	}
	if !bytes.Equal(encode(t, again), encode(t, cache)) {
		t.Error("the cache changed")
	}
	if _, third := settled(t, m, top, nil); third.Cached != 0 || third.Root != first.Root {
		t.Errorf("without the cache: %+v", third)
	}

	// The tree's place does not matter.
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(top, moved); err != nil {
		t.Skip(err)
	}
	if _, res := settled(t, m, moved, cache); res.Cached != first.Files || res.Root != first.Root {
		t.Errorf("moved: %+v", res)
	}
}

// A cache is of no use to an import that stores files otherwise, and of full use to one
// that stores them alike.
func TestImportCacheOfOtherOptions(t *testing.T) {
	needStamps(t)
	top := siteTree().write(t)
	m := newMemStore()
	var caches []*FileCache
	options := []ImportOptions{
		{}, {Preserve: true}, {Chunker: Chunker{5000}}, {Chunker: Chunker{byContent}},
		{Chunker: Chunker{byContent}, Preserve: true},
	}
	for _, opts := range options {
		res, err := importAt(m, top, opts, later())
		if err != nil {
			t.Fatal(err)
		}
		caches = append(caches, res.Cache)
	}
	for i, opts := range options {
		_, want := importTree(t, unixfsV1, top, opts)
		for j, cache := range caches {
			opts.Cache = cache
			res, err := importAt(m, top, opts, later())
			if err != nil || res.Root != want.Root {
				t.Errorf("%d with the cache of %d: root %s, want %s, %v", i, j, res.Root, want.Root, err)
			}
			if i == j && (res.Cached != res.Files || res.NewBytes > 0) || i != j && res.Cached > 0 {
				t.Errorf("%d with the cache of %d: %d of %d files cached", i, j, res.Cached, res.Files)
			}
		}
	}
}

// With Preserve, a change of mode is a change of the file.
func TestImportCacheMode(t *testing.T) {
	needStamps(t)
	top := tree{"file": "1", "other": "1"}.write(t)
	m := newMemStore()
	opts := ImportOptions{Preserve: true}
	first, err := importAt(m, top, opts, later())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(top, "file")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel's stamps tick: change it until it shows.
	for now, i := info, 0; changeTime(now).Equal(changeTime(info)) || i%2 == 0; i++ {
		if err := os.Chmod(path, []os.FileMode{0o600, 0o640}[i%2]); err != nil {
			t.Fatal(err)
		}
		if now, err = os.Stat(path); err != nil {
			t.Fatal(err)
		}
	}
	opts.Cache = first.Cache
	res, err := importAt(m, top, opts, later())
	_, want := importTree(t, unixfsV1, top, ImportOptions{Preserve: true})
	if err != nil || res.Root != want.Root || res.Root == first.Root || res.Cached != 1 {
		t.Errorf("root %s, want %s; %d files cached, %v", res.Root, want.Root, res.Cached, err)
	}
}

func TestImportCacheMisses(t *testing.T) {
	needStamps(t)
	tests := []struct {
		name   string
		change func(path string) error
		cached int // of two files
	}{
		{"nothing", func(string) error { return nil }, 2},
		{"content and size", func(p string) error { return os.WriteFile(p, []byte("12345"), 0o644) }, 1},
		{"modification time", func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(1, 0)) }, 1},
		{"content, time set back", func(p string) error {
			info, err := os.Stat(p)
			if err != nil {
				return err
			}
			// The kernel's stamps tick: change it until it shows.
			for now := info; changeTime(now).Equal(changeTime(info)); {
				if err := os.WriteFile(p, []byte("4321"), 0o644); err != nil {
					return err
				}
				if err := os.Chtimes(p, info.ModTime(), info.ModTime()); err != nil {
					return err
				}
				if now, err = os.Stat(p); err != nil {
					return err
				}
			}
			return nil
		}, 1},
		{"another file in its place", func(p string) error {
			if err := os.WriteFile(p+"2", []byte("4321"), 0o644); err != nil {
				return err
			}
			return os.Rename(p+"2", p)
		}, 1},
		{"removed", os.Remove, 1},
		{"a directory in its place", func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.MkdirAll(p+"/b", 0o755)
		}, 1},
		{"a symlink in its place", func(p string) error {
			if err := os.Rename(p, p+"2"); err != nil {
				return err
			}
			return os.Symlink("file2", p)
		}, -1}, // whether renaming changes the change time depends on the file system
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			top := tree{"file": "1234", "other": "1"}.write(t)
			m := newMemStore()
			cache, _ := settled(t, m, top, nil)
			if err := tt.change(filepath.Join(top, "file")); err != nil {
				t.Fatal(err)
			}
			_, res := settled(t, m, top, cache)
			if tt.cached >= 0 && res.Cached != tt.cached {
				t.Errorf("%d files were cached, want %d", res.Cached, tt.cached)
			}
			if _, want := importTree(t, unixfsV1, top, ImportOptions{}); res.Root != want.Root {
				t.Errorf("root %s, want %s", res.Root, want.Root)
			}
		})
	}
}

// Each field of a stamp counts.
func TestFileCacheFind(t *testing.T) {
	base := stamp{1, 2, 3, 4, 5}
	leaf := blockstore.Sum(cid.Raw, []byte("123"))
	link := Link{CID: leaf.CID(), Size: 3}
	b := newCacheBuilder(time.Now(), plain, nil)
	for i := range uint64(100) {
		b.add(stamp{i, 0, 0, 0, 0}, link)
	}
	b.add(base, link)
	b.add(base, link)
	data := encode(t, b.build())
	c, err := ReadFileCache(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if n := c.Len(); n != 101 || len(data) != n*CachedFileSize {
		t.Errorf("%d files in %d bytes", n, len(data))
	}
	if l, _, ok := c.find(base, plain); !ok || l != link {
		t.Errorf("got %v, %v", l, ok)
	}
	for i, s := range []stamp{{2, 2, 3, 4, 5}, {1, 3, 3, 4, 5}, {1, 2, 4, 4, 5}, {1, 2, 3, 5, 5}, {1, 2, 3, 4, 6}, {1 << 63, 0, 0, 0, 0}} {
		if l, _, ok := c.find(s, plain); ok {
			t.Errorf("%d: found %v", i, l)
		}
	}
	for _, how := range []layout{0, 1, plain | 1<<31} {
		if l, _, ok := c.find(base, how); ok {
			t.Errorf("layout %x: found %v", how, l)
		}
	}
	var none *FileCache
	if _, _, ok := none.find(base, plain); ok {
		t.Error("found in nothing")
	}
	for name, bad := range map[string][]byte{
		"odd length": make([]byte, CachedFileSize+1),
		"not sorted": append(bytes.Repeat([]byte{1}, CachedFileSize), make([]byte, CachedFileSize)...),
	} {
		if _, err := ReadFileCache(bytes.NewReader(bad), int64(len(bad))); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := ReadFileCache(bytes.NewReader(data[1:]), int64(len(data))); err == nil {
		t.Error("cut short: no error")
	}
	key := base.hash(plain)
	data = append(key[:], make([]byte, CachedFileSize-stampSize)...)
	c, err = ReadFileCache(bytes.NewReader(data), CachedFileSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := c.find(base, plain); ok {
		t.Error("found a file without a codec")
	}
}

// A file that changed in the last tick of the clock, or in the future, may change
// again and look the same.
func TestFileCacheRacy(t *testing.T) {
	start := time.Now()
	old, young := start.Add(-stampMargin-1).UnixNano(), start.Add(-stampMargin).UnixNano()
	link := Link{CID: blockstore.Sum(cid.Raw, nil).CID()}
	for _, tt := range []struct {
		mtime, changed int64
		want           bool
	}{{old, old, true}, {young, old, false}, {old, young, false}, {start.Add(time.Hour).UnixNano(), old, false}} {
		b := newCacheBuilder(start, plain, nil)
		s := stamp{mtime: tt.mtime, changed: tt.changed}
		b.add(s, link)
		if _, _, ok := b.build().find(s, plain); ok != tt.want {
			t.Errorf("%+v: remembered: %v", s, ok)
		}
	}
	needStamps(t)
	res, err := Import(t.Context(), newMemStore(), tree{"new": "1"}.write(t), ImportOptions{})
	if err != nil || res.Cache.Len() > 0 {
		t.Errorf("a file just written was remembered: %v, %v", res.Cache, err)
	}
}

// What the store lost is read again.
func TestImportCachedBlockLost(t *testing.T) {
	needStamps(t)
	top := tree{"small": "1", "large": randomBytes(3<<20, 1)}.write(t)
	m := newMemStore()
	cache, first := settled(t, m, top, nil)
	for c := range m.blocks {
		if c == first.Root {
			continue
		}
		lost := m.blocks[c]
		delete(m.blocks, c)
		_, res := settled(t, m, top, cache)
		if res.Cached != 1 || res.Root != first.Root || m.blocks[c].CID() != c {
			t.Errorf("without %s (%d bytes): %+v", c, len(lost.Data()), res)
		}
	}
}

// A forged or damaged record leads to nothing worse than another held file.
func TestImportCacheForged(t *testing.T) {
	needStamps(t)
	top := tree{"file": "1"}.write(t)
	info, err := os.Lstat(filepath.Join(top, "file"))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := stampOf(info)
	m := newMemStore()
	chain := m.putFile(t, "", "end")
	for range maxFileDepth + 1 {
		chain = m.putNode(t, "", Node{Links: []Link{chain}, Data: unixfs{Type: typeFile}.Encode()})
	}
	garbled := blockstore.Sum(cid.DagProtobuf, []byte("\xff"))
	if err := m.put(garbled); err != nil {
		t.Fatal(err)
	}
	for _, l := range []Link{chain, {CID: garbled.CID()}, {CID: blockstore.Sum(cid.Raw, []byte("absent")).CID()}} {
		b := newCacheBuilder(later(), plain, nil)
		b.add(s, l)
		if _, res := settled(t, m, top, b.build()); res.Cached != 0 {
			t.Errorf("%s was believed", l.CID)
		}
	}
}

func BenchmarkImportCached(b *testing.B) { benchCached(b, ImportOptions{}) }

func BenchmarkImportCachedPreserve(b *testing.B) { benchCached(b, ImportOptions{Preserve: true}) }

func benchCached(b *testing.B, opts ImportOptions) {
	needStamps(b)
	path, bytes := benchTree(b)
	m := newMemStore()
	res, err := importAt(m, path, opts, later())
	if err != nil {
		b.Fatal(err)
	}
	opts.Cache = res.Cache
	b.SetBytes(bytes)
	for b.Loop() {
		again, err := importAt(m, path, opts, later())
		if err != nil {
			b.Fatal(err)
		}
		if again.Cached != res.Files {
			b.Fatal(fmt.Errorf("%d of %d files were cached", again.Cached, res.Files))
		}
	}
}
