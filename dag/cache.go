package dag

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
)

const (
	// MaxCachedFiles is how many files a FileCache has at most, which bounds it to
	// some 45 MB. The files beyond are read by every import.
	MaxCachedFiles = 1 << 19
	// CachedFileSize is the length of one file's record in FileCache.Encode.
	CachedFileSize = stampSize + 1 + 32 + 8
	stampSize      = 4 + 5*8

	// stampMargin is how much older than the import that reads it a file's times
	// must be. A file that changes after it was read could carry the same times
	// otherwise, since clocks of file systems tick: every 4 to 10 ms under Linux,
	// every 2 s on FAT.
	stampMargin = 2 * time.Second
	// maxFileDepth is how many levels of nodes a file has that the cache knows, at
	// most. With chunks of 1 MiB, files of 1 EiB have four.
	maxFileDepth = 4
)

// FileCache says which files an import saw and what it made of each, so that the
// next import need not read those that did not change. A file counts as unchanged
// if its device, inode, size, modification and change time are what they were; names
// do not matter, and permissions do not change without the change time. A file is known
// as it was stored: not to an import with another ImportOptions.Preserve or Chunker. A
// FileCache is immutable; nil is an empty one.
//
// Files that changed in the two seconds before the import are not in it: they may
// change again without a trace.
type FileCache struct{ records []byte } // sorted

// layout is what of the options of an import decides how a file is stored: bit 31 says
// whether with metadata, the other bits are the size of the chunks, 0 for FastCDC.
type layout uint32

func (im *importer) layout() layout {
	l := layout(max(im.chunkSize, 0)) // byContent is negative
	if im.preserve {
		l |= 1 << 31
	}
	return l
}

// stamp is what identifies the state of a file. Times are in nanoseconds since 1970.
type stamp struct {
	dev, ino             uint64
	size, mtime, changed int64
}

// record is a stamp and what the file was stored as, as bytes: the layout, the stamp's
// fields in order, the codec of the root, its SHA2-256, and the size of its DAG (the Size of a
// Link). Numbers are big-endian, the codec is one byte.
type record [CachedFileSize]byte

func (s stamp) append(b []byte, l layout) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(l))
	for _, v := range []uint64{s.dev, s.ino, uint64(s.size), uint64(s.mtime), uint64(s.changed)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// ParseFileCache is the inverse of Encode. Who can forge its input can make an import
// take a file for another DAG in the store.
func ParseFileCache(data []byte) (*FileCache, error) {
	if len(data)%CachedFileSize != 0 || len(data) > MaxCachedFiles*CachedFileSize {
		return nil, fmt.Errorf("file cache of %d bytes", len(data))
	}
	return &FileCache{data}, nil
}

// Encode returns the cache as records of CachedFileSize bytes, to be kept until the
// next import. The caller must not change them.
func (c *FileCache) Encode() []byte {
	if c == nil {
		return nil
	}
	return c.records
}

// find returns what the file with stamp s was stored as in layout how.
func (c *FileCache) find(s stamp, how layout) (Link, bool) {
	records := c.Encode()
	n := len(records) / CachedFileSize
	key := s.append(make([]byte, 0, stampSize), how)
	i, found := sort.Find(n, func(i int) int {
		return bytes.Compare(key, records[i*CachedFileSize:][:stampSize])
	})
	if !found {
		return Link{}, false
	}
	r := records[i*CachedFileSize+stampSize:][:CachedFileSize-stampSize]
	codec := uint64(r[0])
	if codec != cid.Raw && codec != cid.DagProtobuf {
		return Link{}, false
	}
	hash, err := multihash.Encode(r[1:33], multihash.SHA2_256)
	if err != nil {
		return Link{}, false
	}
	return Link{CID: cid.NewCidV1(codec, hash), Size: binary.BigEndian.Uint64(r[33:])}, true
}

// cacheBuilder collects the files of one import.
type cacheBuilder struct {
	before int64  // times have to be older, in nanoseconds since 1970
	layout layout // of all

	mu      sync.Mutex
	records []record
}

func newCacheBuilder(start time.Time, how layout) *cacheBuilder {
	return &cacheBuilder{before: start.Add(-stampMargin).UnixNano(), layout: how}
}

// add enters a file that was stored as l, unless it changed too lately.
func (b *cacheBuilder) add(s stamp, l Link) {
	if max(s.mtime, s.changed) >= b.before {
		return
	}
	hash, err := multihash.Decode(l.CID.Hash())
	if err != nil || len(hash.Digest) != 32 {
		return
	}
	var r record
	rest := s.append(r[:0], b.layout)
	rest = append(rest, byte(l.CID.Type()))
	rest = append(rest, hash.Digest...)
	binary.BigEndian.AppendUint64(rest, l.Size)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.records) < MaxCachedFiles {
		b.records = append(b.records, r)
	}
}

func (b *cacheBuilder) build() *FileCache {
	slices.SortFunc(b.records, func(x, y record) int { return bytes.Compare(x[:], y[:]) })
	b.records = slices.Compact(b.records) // a file may have several names
	c := &FileCache{make([]byte, 0, len(b.records)*CachedFileSize)}
	for i := range b.records {
		c.records = append(c.records, b.records[i][:]...)
	}
	return c
}

// recall returns what the file described by info was stored as, if the cache has it
// and the store still holds all of it.
func (w *importWorker) recall(info fs.FileInfo) (Link, bool, error) {
	s, ok := stampOf(info)
	if !ok {
		return Link{}, false, nil
	}
	l, ok := w.cache.find(s, w.seen.layout)
	if !ok {
		return Link{}, false, nil
	}
	held, err := w.isHeld(w.ctx, l.CID, maxFileDepth)
	if err != nil || !held {
		return Link{}, false, err
	}
	w.seen.add(s, l)
	w.meter.files.Add(1)
	w.meter.bytes.Add(s.size)
	w.cached.Add(1)
	return l, true, nil
}

// remember enters a file that was read into the cache for the next import.
func (w *importWorker) remember(info fs.FileInfo, l Link) {
	if s, ok := stampOf(info); ok {
		w.seen.add(s, l)
	}
}

// isHeld says whether the store holds every block of the file at c, which is at most
// depth nodes deep.
func (w *importWorker) isHeld(ctx context.Context, c cid.Cid, depth int) (bool, error) {
	held, err := w.store.Has(c)
	if err != nil || !held || c.Type() == cid.Raw {
		return held, err
	}
	if depth == 0 {
		return false, nil
	}
	b, err := w.store.Get(ctx, c)
	if errors.Is(err, blockstore.ErrNotFound) || errors.Is(err, blockstore.ErrCorrupt) {
		return false, nil // reading the file heals it
	}
	if err != nil {
		return false, err
	}
	links, err := Links(b)
	if err != nil {
		return false, nil // the record was damaged
	}
	for _, l := range links {
		if held, err := w.isHeld(ctx, l.CID, depth-1); err != nil || !held {
			return false, err
		}
	}
	return true, nil
}
