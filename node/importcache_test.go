package node

import (
	"bytes"
	"fmt"
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
	c, err := dag.ParseFileCache(bytes.Repeat([]byte{fill}, n*dag.CachedFileSize))
	if err != nil {
		t.Fatal(err)
	}
	return c
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
		if got := c.get(path); !bytes.Equal(got.Encode(), files.Encode()) {
			t.Errorf("%q: got %x", path, got.Encode())
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
	damaged["odd records"] = encodeImportCache([]cachedTree{{"/a", []byte("x")}})
	for name, data := range damaged {
		if err := os.WriteFile(c.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		if got := c.get("/a"); got != nil {
			t.Errorf("%s: got %x", name, got.Encode())
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
	trees := make([]cachedTree, maxCachedTrees)
	for i := range trees {
		trees[i] = cachedTree{key: fmt.Sprint(i), files: fileCache(t, 1, 1).Encode()}
	}
	if err := c.save(trees); err != nil {
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

func FuzzDecodeImportCache(f *testing.F) {
	f.Add([]byte(importCacheMagic))
	f.Add(encodeImportCache(nil))
	f.Add(encodeImportCache([]cachedTree{{"/a", []byte("123")}, {"", nil}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		trees, err := decodeImportCache(data)
		if err != nil {
			// With the right sum, so that the fuzzer comes past it.
			body := append([]byte(importCacheMagic), data...)
			if trees, err = decodeImportCache(appendSum(body)); err != nil {
				return
			}
			data = appendSum(body)
		}
		if again := encodeImportCache(trees); !bytes.Equal(again, data) {
			t.Errorf("%x was read as %v", data, trees)
		}
	})
}
