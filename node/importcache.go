package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"pollux/dag"
)

const (
	importCacheFile  = "import-cache"
	importCacheMagic = "pollux import cache 2\n"
	// maxCachedTrees is how many trees the cache has files of; together they have
	// dag.MaxCachedFiles at most. Those that changed longest ago go first.
	maxCachedTrees = 1 << 10
	// maxImportCache is how long the file is at most: a path is shorter than 4 KiB, and
	// what else there is of a tree than 64 bytes.
	maxImportCache = maxCachedTrees*(4<<10+64) + dag.MaxCachedFiles*dag.CachedFileSize
)

// importCache is the file that remembers, for each tree that was added, the files that
// the last add of it saw. One path added in two ways is two trees. Losing it costs time: the next add reads all files. Who
// can forge it can make an add take a file for another that the store holds.
//
// The file is importCacheMagic; for each tree the length of its key, the key, the length
// of what dag.FileCache.Encode gave, and that; and a CRC-32C of all before. Numbers are
// big-endian, of 4 bytes. It is not synced: a file that a crash damaged does not have
// the right sum.
type importCache struct {
	path string
	log  *slog.Logger

	mu sync.Mutex // held while the file is read and replaced
}

// cachedTree is what is known of one tree.
type cachedTree struct {
	key   string
	files []byte
}

// cacheKey names the tree at path, added with opts: the path, and what decides how its
// files are stored.
func cacheKey(path string, opts dag.ImportOptions) string {
	return fmt.Sprintf("%s\x00%s preserve=%t", path, opts.Chunker, opts.Preserve)
}

// get returns what is known of the files of a tree, possibly nothing.
func (c *importCache) get(key string) *dag.FileCache {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.load() {
		if t.key == key {
			files, err := dag.ParseFileCache(t.files)
			if err != nil {
				c.log.Warn("import cache is damaged, files are read again", "err", err)
			}
			return files
		}
	}
	return nil
}

// put remembers the files of a tree, in place of what was known of them.
func (c *importCache) put(key string, files *dag.FileCache) {
	c.mu.Lock()
	defer c.mu.Unlock()
	trees := c.load()
	if i := slices.IndexFunc(trees, func(t cachedTree) bool { return t.key == key }); i >= 0 {
		if bytes.Equal(trees[i].files, files.Encode()) {
			return
		}
		trees = slices.Delete(trees, i, i+1)
	}
	trees = append(trees, cachedTree{key, files.Encode()})
	if err := c.save(trees); err != nil {
		c.log.Warn("cannot save the import cache, the next add reads all files", "err", err)
	}
}

func (c *importCache) load() []cachedTree {
	info, err := os.Stat(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var data []byte
	if err == nil && info.Size() > maxImportCache {
		err = errors.New("too large")
	}
	if err == nil {
		data, err = os.ReadFile(c.path)
	}
	var trees []cachedTree
	if err == nil {
		trees, err = decodeImportCache(data)
	}
	if err != nil {
		c.log.Warn("import cache is damaged, files are read again", "err", err)
		os.Remove(c.path) // said once, not at each add
	}
	return trees
}

// save writes the newest of the trees, as many as fit.
func (c *importCache) save(trees []cachedTree) (err error) {
	fit, files := 0, 0
	for _, t := range slices.Backward(trees) {
		if files += len(t.files) / dag.CachedFileSize; files > dag.MaxCachedFiles || fit == maxCachedTrees {
			break
		}
		fit++
	}
	data := encodeImportCache(trees[len(trees)-fit:])
	f, err := os.CreateTemp(filepath.Dir(c.path), importCacheFile+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), c.path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

var crc32c = crc32.MakeTable(crc32.Castagnoli)

func encodeImportCache(trees []cachedTree) []byte {
	data := []byte(importCacheMagic)
	for _, t := range trees {
		for _, field := range [][]byte{[]byte(t.key), t.files} {
			data = binary.BigEndian.AppendUint32(data, uint32(len(field)))
			data = append(data, field...)
		}
	}
	return appendSum(data)
}

func appendSum(data []byte) []byte {
	return binary.BigEndian.AppendUint32(data, crc32.Checksum(data, crc32c))
}

// decodeImportCache is the inverse of encodeImportCache. What it returns is part of
// data.
func decodeImportCache(data []byte) ([]cachedTree, error) {
	rest, ok := bytes.CutPrefix(data, []byte(importCacheMagic))
	if !ok || len(rest) < 4 {
		return nil, errors.New("not of this version")
	}
	body, sum := data[:len(data)-4], data[len(data)-4:]
	if crc32.Checksum(body, crc32c) != binary.BigEndian.Uint32(sum) {
		return nil, errors.New("checksum mismatch")
	}
	rest = rest[:len(rest)-4]
	next := func() ([]byte, error) {
		if len(rest) < 4 {
			return nil, errors.New("cut short")
		}
		n := binary.BigEndian.Uint32(rest)
		if uint64(n) > uint64(len(rest)-4) {
			return nil, fmt.Errorf("length %d beyond the end", n)
		}
		field := rest[4:][:n:n]
		rest = rest[4+n:]
		return field, nil
	}
	var trees []cachedTree
	for len(rest) > 0 {
		key, err := next()
		if err != nil {
			return nil, err
		}
		files, err := next()
		if err != nil {
			return nil, err
		}
		trees = append(trees, cachedTree{string(key), files})
	}
	return trees, nil
}
