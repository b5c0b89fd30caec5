package node

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
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
	importCacheMagic = "pollux import cache 3\n"
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
// of what dag.FileCache.WriteTo wrote, and that; and a CRC-32C of all before. Numbers are
// big-endian, of 4 bytes. It is not synced: a file that a crash damaged does not have
// the right sum.
type importCache struct {
	path string
	log  *slog.Logger

	mu sync.Mutex // held while the file is read and replaced
}

// cachedTree is what the file has of one tree.
type cachedTree struct {
	key         string
	off, length int64 // in the file, of what FileCache.WriteTo wrote
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
	f, trees := c.load()
	if f == nil {
		return nil
	}
	defer f.Close()
	i := slices.IndexFunc(trees, func(t cachedTree) bool { return t.key == key })
	if i < 0 {
		return nil
	}
	files, err := dag.ReadFileCache(bufio.NewReaderSize(trees[i].in(f), 1<<16), trees[i].length)
	if err != nil {
		c.drop(err)
	}
	return files
}

// put remembers the files of a tree, in place of what was known of them.
func (c *importCache) put(key string, files *dag.FileCache) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, trees := c.load()
	if i := slices.IndexFunc(trees, func(t cachedTree) bool { return t.key == key }); i >= 0 {
		if trees[i].has(f, files) {
			f.Close()
			return
		}
		trees = slices.Delete(trees, i, i+1)
	}
	temp, err := c.write(f, trees, key, files)
	f.Close() // nil or not; some systems replace no file that is open
	if err == nil {
		err = os.Rename(temp, c.path)
	}
	if err != nil {
		os.Remove(temp)
		c.log.Warn("cannot save the import cache, the next add reads all files", "err", err)
	}
}

func (t cachedTree) in(f io.ReaderAt) io.Reader { return io.NewSectionReader(f, t.off, t.length) }

// has says whether files is what f has of the tree.
func (t cachedTree) has(f io.ReaderAt, files *dag.FileCache) bool {
	if t.length != int64(files.Len())*dag.CachedFileSize {
		return false
	}
	_, err := files.WriteTo(&comparer{r: bufio.NewReaderSize(t.in(f), 1<<16)})
	return err == nil
}

// comparer takes what r has, and fails with the first byte that differs.
type comparer struct {
	r   io.Reader
	buf []byte
}

func (c *comparer) Write(p []byte) (int, error) {
	c.buf = append(c.buf[:0], p...)
	if _, err := io.ReadFull(c.r, c.buf); err != nil {
		return 0, err
	}
	if !bytes.Equal(c.buf, p) {
		return 0, errors.New("not the same")
	}
	return len(p), nil
}

// load opens the file and returns what is in it. It returns nil if there is none that
// can be used.
func (c *importCache) load() (*os.File, []cachedTree) {
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var trees []cachedTree
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && info.Size() > maxImportCache {
			err = errors.New("too large")
		}
		if err == nil {
			trees, err = readImportCache(f, info.Size())
		}
		if err != nil {
			f.Close()
		}
	}
	if err != nil {
		c.drop(err)
		return nil, nil
	}
	return f, trees
}

// drop removes the file, so that its damage is reported once and not at each add.
func (c *importCache) drop(err error) {
	c.log.Warn("import cache is damaged, files are read again", "err", err)
	os.Remove(c.path)
}

// write makes a file of the newest of the trees, which old has, as many as fit, and of
// files behind them. It returns the file's name.
func (c *importCache) write(old io.ReaderAt, trees []cachedTree, key string, files *dag.FileCache) (string, error) {
	fit, count := 0, files.Len()
	for _, t := range slices.Backward(trees) {
		if count += int(t.length / dag.CachedFileSize); count > dag.MaxCachedFiles || fit == maxCachedTrees-1 {
			break
		}
		fit++
	}
	f, err := os.CreateTemp(filepath.Dir(c.path), importCacheFile+".*")
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(writeImportCache(f, old, trees[len(trees)-fit:], key, files), f.Close())
}

var crc32c = crc32.MakeTable(crc32.Castagnoli)

// writeImportCache writes what old has of trees, and files under key.
func writeImportCache(f io.Writer, old io.ReaderAt, trees []cachedTree, key string, files *dag.FileCache) error {
	buffered := bufio.NewWriterSize(f, 1<<16) // keeps the first error
	sum := crc32.New(crc32c)
	w := io.MultiWriter(buffered, sum)
	number := func(n int) { w.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	head := func(key string, length int) {
		number(len(key))
		io.WriteString(w, key)
		number(length)
	}
	io.WriteString(w, importCacheMagic)
	for _, t := range trees {
		head(t.key, int(t.length))
		if _, err := io.Copy(w, t.in(old)); err != nil {
			return err
		}
	}
	head(key, files.Len()*dag.CachedFileSize)
	if _, err := files.WriteTo(w); err != nil {
		return err
	}
	number(int(sum.Sum32()))
	return buffered.Flush()
}

// readImportCache returns what is in a file of the given size, and checks its sum.
func readImportCache(f io.ReaderAt, size int64) ([]cachedTree, error) {
	end := size - 4 // where the sum is
	if end < int64(len(importCacheMagic)) {
		return nil, errors.New("not of this version")
	}
	sum := crc32.New(crc32c)
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, end)); err != nil {
		return nil, err
	}
	var number [4]byte
	if _, err := f.ReadAt(number[:], end); err != nil {
		return nil, err
	}
	magic := make([]byte, len(importCacheMagic))
	if _, err := f.ReadAt(magic, 0); err != nil {
		return nil, err
	}
	switch {
	case string(magic) != importCacheMagic:
		return nil, errors.New("not of this version")
	case sum.Sum32() != binary.BigEndian.Uint32(number[:]):
		return nil, errors.New("checksum mismatch")
	}
	off := int64(len(magic))
	// next returns where the next field is, of its length.
	next := func() (int64, int64, error) {
		if end-off < 4 {
			return 0, 0, errors.New("cut short")
		}
		if _, err := f.ReadAt(number[:], off); err != nil {
			return 0, 0, err
		}
		start, n := off+4, int64(binary.BigEndian.Uint32(number[:]))
		if n > end-start {
			return 0, 0, fmt.Errorf("length %d beyond the end", n)
		}
		off = start + n
		return start, n, nil
	}
	var trees []cachedTree
	for off < end {
		at, n, err := next()
		if err != nil {
			return nil, err
		}
		key := make([]byte, n)
		if _, err := f.ReadAt(key, at); err != nil {
			return nil, err
		}
		t := cachedTree{key: string(key)}
		if t.off, t.length, err = next(); err != nil {
			return nil, err
		}
		trees = append(trees, t)
	}
	return trees, nil
}
