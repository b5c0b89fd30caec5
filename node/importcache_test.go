package node

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pollux/dag"
)

// fileCache returns a cache of n files with made-up records.
func fileCache(t testing.TB, n int, fill byte) *dag.FileCache {
	t.Helper()
	size := n * dag.CachedFileSize
	c, err := dag.ReadFileCache(bytes.NewReader(bytes.Repeat([]byte{fill}, size)), int64(size))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// encodeFiles returns what files writes.
func encodeFiles(t testing.TB, files *dag.FileCache) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := files.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func newImportCache(t testing.TB, log *bytes.Buffer) *importCache {
	return &importCache{path: filepath.Join(t.TempDir(), importCacheFile), log: slog.New(slog.NewTextHandler(log, nil))}
}

func TestImportCache(t *testing.T) {
	var log bytes.Buffer
	c := newImportCache(t, &log)
	if c.get("/a") != nil {
		t.Error("something is known at first")
	}
	want := map[string]*dag.FileCache{"/a": fileCache(t, 3, 1), "/b\n\xff": fileCache(t, 1, 2), "/empty": fileCache(t, 0, 0)}
	for path, files := range want {
		c.put(path, fileCache(t, 2, 9))
		c.put(path, files)
	}
	for path, files := range want {
		if got := encodeFiles(t, c.get(path)); !bytes.Equal(got, encodeFiles(t, files)) {
			t.Errorf("%q: got %x", path, got)
		}
	}
	if c.get("/c") != nil {
		t.Error("something is known of a path that was not put")
	}
	before, err := os.Stat(c.path)
	if err != nil {
		t.Fatal(err)
	}
	c.put("/a", want["/a"])
	if after, err := os.Stat(c.path); err != nil || !os.SameFile(before, after) {
		t.Errorf("a put that changed nothing wrote the file again, or: %v", err)
	}
	if log.Len() > 0 {
		t.Error(log.String())
	}
	left, err := filepath.Glob(c.path + ".*")
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

// The same path added in another way is another tree.
func TestCacheKey(t *testing.T) {
	fastcdc, err := dag.ParseChunker("fastcdc")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]dag.ImportOptions{}
	for _, opts := range []dag.ImportOptions{{}, {Preserve: true}, {Chunker: fastcdc}, {Chunker: fastcdc, Preserve: true}} {
		key := cacheKey("/a", opts)
		if other, ok := seen[key]; ok {
			t.Errorf("%+v and %+v have one key", opts, other)
		}
		seen[key] = opts
	}
	if cacheKey("/a", dag.ImportOptions{Hidden: true}) != cacheKey("/a", dag.ImportOptions{AllowSecrets: true}) {
		t.Error("options that change no file have keys of their own")
	}
}

// A file that is not as it was written is reported, ignored and replaced.
func TestImportCacheDamaged(t *testing.T) {
	var log bytes.Buffer
	c := newImportCache(t, &log)
	c.put("/a", fileCache(t, 1, 1))
	sound, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"empty": {}, "cut": sound[:len(sound)-1], "longer": append(bytes.Clone(sound), 0)}
	for i := range sound {
		flipped := bytes.Clone(sound)
		flipped[i] ^= 1
		damaged[fmt.Sprintf("byte %d", i)] = flipped
	}
	var odd bytes.Buffer
	if err := writeImportCache(&odd, strings.NewReader("x"), []cachedTree{{"/a", 0, 1}}, "/b", nil); err != nil {
		t.Fatal(err)
	}
	damaged["odd records"] = odd.Bytes()
	for name, data := range damaged {
		if err := os.WriteFile(c.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		if got := c.get("/a"); got != nil {
			t.Errorf("%s: got %d files", name, got.Len())
		}
		if !strings.Contains(log.String(), "damaged") {
			t.Errorf("%s: logged %q", name, log.String())
		}
		c.put("/a", fileCache(t, 1, 1))
		if got, err := os.ReadFile(c.path); err != nil || !bytes.Equal(got, sound) {
			t.Errorf("%s: not replaced: %v", name, err)
		}
	}
}

// The cache does not grow for ever: what changed longest ago goes.
func TestImportCacheBounded(t *testing.T) {
	var log bytes.Buffer
	c := newImportCache(t, &log)
	one := encodeFiles(t, fileCache(t, 1, 1))
	trees := make([]cachedTree, maxCachedTrees-1)
	for i := range trees {
		trees[i] = cachedTree{key: fmt.Sprint(i), length: int64(len(one))}
	}
	temp, err := c.write(bytes.NewReader(one), trees, fmt.Sprint(len(trees)), fileCache(t, 1, 1))
	if err == nil {
		err = os.Rename(temp, c.path)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.put("new", fileCache(t, 1, 2))
	if c.get("0") != nil || c.get("1") == nil || c.get("new") == nil {
		t.Error("not the oldest path was dropped")
	}
	c.put("large", fileCache(t, dag.MaxCachedFiles-1, 3))
	if c.get("1") != nil || c.get("new") == nil || c.get("large") == nil {
		t.Error("not the oldest paths were dropped for a large one")
	}
	if err := os.Truncate(c.path, maxImportCache+1); err != nil {
		t.Fatal(err)
	}
	if c.get("large") != nil || !strings.Contains(log.String(), "too large") {
		t.Errorf("a file over the limit was read; logged %q", log.String())
	}
}

// FuzzReadImportCache reads arbitrary bytes, with the right sum: what is found lies
// within them, and the same is found in what is written of it.
func FuzzReadImportCache(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x00\x00\x02/a\x00\x00\x00\x03123\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x02/a\xff\xff\xff\xff123"))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = append([]byte(importCacheMagic), data...)
		data = binary.BigEndian.AppendUint32(data, crc32.Checksum(data, crc32c))
		trees, err := readImportCache(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := writeImportCache(&out, bytes.NewReader(data), trees, "last", nil); err != nil {
			t.Fatal(err)
		}
		// One more tree, which is empty, and another sum.
		if again := out.Bytes(); !bytes.HasPrefix(again, data[:len(data)-4]) || len(again) != len(data)+4+len("last")+4 {
			t.Errorf("%x was read as %v", data, trees)
		}
	})
}
