package blockstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"sort"
	"sync"
)

const (
	// chunkEntries is how many entries of an index file are read, and checked, at once:
	// what fits into 4 KiB.
	chunkEntries = 4096 / entrySize
	chunkSize    = chunkEntries * entrySize
	// readChunks is how many chunks are read at once where all are.
	readChunks = 16
)

// errBadIndex reports an index file that cannot be used; the index is then rebuilt.
var errBadIndex = errors.New("unusable index")

// sealedIndex finds entries in an index file. The file is read, not mapped into memory:
// a page that the disk cannot read, or that is gone because something cut the file off,
// is an error then and not the end of the process, and no page of it counts as memory of
// this process. What a look-up needs to read one chunk at most stays in memory, some two
// bytes for each entry, and so does a checksum of each chunk: that of the whole file
// says only what was there when it was opened.
type sealedIndex struct {
	file   File
	count  int
	fanout [256]uint32
	heads  []key    // the first of each chunk
	sums   []uint32 // CRC-32C of each chunk
	filter filter   // of all keys: most look-ups in a pack are for what is in another
}

// openIndex reads the index file f of the pack with the given id and size, which is f's
// owner then. It fails with errBadIndex if f is damaged or belongs to another pack, or
// another length of it, and with ErrNewerFormat if a later version wrote it.
func openIndex(f File, id packID, packSize int64) (index, error) {
	size, err := f.Size()
	if err != nil {
		return index{}, err
	}
	head := make([]byte, indexHeader+fanoutSize)
	if size < int64(len(head)) {
		return index{}, fmt.Errorf("%w: too short", errBadIndex)
	}
	if _, err := f.ReadAt(head, 0); err != nil {
		return index{}, fmt.Errorf("%w: %w", errBadIndex, err)
	}
	count := int64(binary.LittleEndian.Uint32(head[12:]))
	switch {
	case string(head[:8]) != indexMagic,
		crc32.Checksum(head[:52], castagnoli) != binary.LittleEndian.Uint32(head[52:]):
		return index{}, fmt.Errorf("%w: damaged head", errBadIndex)
	case binary.LittleEndian.Uint32(head[8:]) > formatVersion:
		return index{}, fmt.Errorf("index has format version %d: %w", binary.LittleEndian.Uint32(head[8:]), ErrNewerFormat)
	case binary.LittleEndian.Uint32(head[8:]) < formatVersion:
		return index{}, fmt.Errorf("%w: older version", errBadIndex)
	case packID(head[16:32]) != id,
		binary.LittleEndian.Uint64(head[32:]) != uint64(packSize):
		return index{}, fmt.Errorf("%w: of another pack", errBadIndex)
	case size != indexHeader+fanoutSize+count*entrySize:
		return index{}, fmt.Errorf("%w: wrong length", errBadIndex)
	}
	x := &sealedIndex{file: f, count: int(count)}
	last := uint32(0)
	for i := range x.fanout {
		n := binary.LittleEndian.Uint32(head[indexHeader+4*i:])
		if n < last || int64(n) > count {
			return index{}, fmt.Errorf("%w: damaged fan-out", errBadIndex)
		}
		x.fanout[i], last = n, n
	}
	sum, err := x.scan(crc32.Checksum(head[indexHeader:], castagnoli))
	if err != nil {
		return index{}, fmt.Errorf("%w: %w", errBadIndex, err)
	}
	if sum != binary.LittleEndian.Uint32(head[48:]) {
		return index{}, fmt.Errorf("%w: damaged entries", errBadIndex)
	}
	return index{sealed: x, count: x.count, rawBytes: int64(binary.LittleEndian.Uint64(head[40:]))}, nil
}

// scan reads all entries to fill in what x has in memory, and returns the CRC-32C of
// what sum is that of and of them.
func (x *sealedIndex) scan(sum uint32) (uint32, error) {
	chunks := (x.count + chunkEntries - 1) / chunkEntries
	x.heads, x.sums = make([]key, 0, chunks), make([]uint32, 0, chunks)
	x.filter = newFilter(x.count)
	for chunk, err := range x.chunks() {
		if err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, chunk)
		x.heads = append(x.heads, key(chunk[:32]))
		x.sums = append(x.sums, crc32.Checksum(chunk, castagnoli))
		for ; len(chunk) > 0; chunk = chunk[entrySize:] {
			x.filter.add((*key)(chunk[:32]))
		}
	}
	return sum, nil
}

// chunks yields the chunks, unchecked, each valid until the next. It ends after an error.
func (x *sealedIndex) chunks() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		buf := make([]byte, min(readChunks*chunkSize, x.count*entrySize))
		for at := 0; at < x.count; at += readChunks * chunkEntries {
			some := buf[:min(len(buf), (x.count-at)*entrySize)]
			if _, err := x.file.ReadAt(some, entryOffset(at)); err != nil {
				yield(nil, err)
				return
			}
			for len(some) > 0 {
				n := min(chunkSize, len(some))
				if !yield(some[:n:n], nil) {
					return
				}
				some = some[n:]
			}
		}
	}
}

// entryOffset returns where in an index file the entry of that number is.
func entryOffset(i int) int64 { return indexHeader + fanoutSize + int64(i)*entrySize }

// chunkBuffers has buffers for one chunk each: one on the stack would not stay there.
var chunkBuffers = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// find is index.find.
func (x *sealedIndex) find(k *key) (entry, bool, error) {
	if !x.filter.mayHave(k) {
		return entry{}, false, nil
	}
	lo, hi := 0, int(x.fanout[k[0]])
	if k[0] > 0 {
		lo = int(x.fanout[k[0]-1])
	}
	if lo == hi {
		return entry{}, false, nil
	}
	// It is in the last of the chunks whose first key is not above it.
	first, end := lo/chunkEntries, (hi-1)/chunkEntries+1
	c := first + sort.Search(end-first, func(i int) bool { return bytes.Compare(x.heads[first+i][:], k[:]) > 0 }) - 1
	if c < first {
		return entry{}, false, nil
	}
	buf := chunkBuffers.Get().(*[chunkSize]byte)
	defer chunkBuffers.Put(buf)
	chunk := buf[:min(chunkEntries, x.count-c*chunkEntries)*entrySize]
	if _, err := x.file.ReadAt(chunk, entryOffset(c*chunkEntries)); err != nil {
		return entry{}, false, err
	}
	if err := x.check(c, chunk); err != nil {
		return entry{}, false, err
	}
	n := len(chunk) / entrySize
	i, ok := sort.Find(n, func(i int) int { return bytes.Compare(k[:], chunk[i*entrySize:][:32]) })
	if !ok {
		return entry{}, false, nil
	}
	return parseEntry(chunk[i*entrySize:]), true, nil
}

// all is index.all.
func (x *sealedIndex) all() iter.Seq2[located, error] {
	return func(yield func(located, error) bool) {
		c := 0
		for chunk, err := range x.chunks() {
			if err == nil {
				err = x.check(c, chunk)
			}
			if err != nil {
				yield(located{}, err)
				return
			}
			for ; len(chunk) > 0; chunk = chunk[entrySize:] {
				if !yield(located{key(chunk[:32]), parseEntry(chunk)}, nil) {
					return
				}
			}
			c++
		}
	}
}

// check says whether chunk number c is what it was when the file was opened.
func (x *sealedIndex) check(c int, chunk []byte) error {
	if crc32.Checksum(chunk, castagnoli) != x.sums[c] {
		return fmt.Errorf("%w: entries changed since it was opened", errBadIndex)
	}
	return nil
}
