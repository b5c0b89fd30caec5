package dag

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
	// some 30 MB. The files beyond are read by every import.
	MaxCachedFiles = 1 << 19
	// CachedFileSize is the length of one file's record in what FileCache.WriteTo writes.
	CachedFileSize = stampSize + 1 + 32 + 8
	stampSize      = 16

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
type FileCache struct {
	parts [256][]record // by their first byte; each sorted
}

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

// record is what a FileCache knows of one file: the stamp, what the file was stored as
// (the codec of the root in one byte, its SHA2-256), and the size of its DAG (the Size of
// a Link). Numbers are big-endian.
type record [CachedFileSize]byte

// hash returns what stands for a stamp and a layout in a record: the first bytes of
// their SHA2-256. All fields in full would take three times as much.
func (s stamp) hash(l layout) (h [stampSize]byte) {
	b := make([]byte, 0, 4+5*8)
	b = binary.BigEndian.AppendUint32(b, uint32(l))
	for _, v := range []uint64{s.dev, s.ino, uint64(s.size), uint64(s.mtime), uint64(s.changed)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	sum := sha256.Sum256(b)
	copy(h[:], sum[:])
	return h
}

func (r *record) link() (Link, bool) {
	codec := uint64(r[stampSize])
	if codec != cid.Raw && codec != cid.DagProtobuf {
		return Link{}, false
	}
	hash, err := multihash.Encode(r[stampSize+1:][:32], multihash.SHA2_256)
	if err != nil {
		return Link{}, false
	}
	return Link{CID: cid.NewCidV1(codec, hash), Size: binary.BigEndian.Uint64(r[stampSize+1+32:])}, true
}

// ReadFileCache reads what WriteTo wrote, of the given length in bytes. Who can forge
// that can make an import take a file for another DAG in the store.
func ReadFileCache(r io.Reader, length int64) (*FileCache, error) {
	if length < 0 || length%CachedFileSize != 0 || length > MaxCachedFiles*CachedFileSize {
		return nil, fmt.Errorf("file cache of %d bytes", length)
	}
	c := &FileCache{}
	var rec, last record
	for range length / CachedFileSize {
		if _, err := io.ReadFull(r, rec[:]); err != nil {
			return nil, err
		}
		if bytes.Compare(rec[:], last[:]) < 0 {
			return nil, errors.New("file cache is not sorted")
		}
		last = rec
		c.parts[rec[0]] = append(c.parts[rec[0]], rec)
	}
	return c, nil
}

// WriteTo writes the cache as records of CachedFileSize bytes, to be kept until the next
// import.
func (c *FileCache) WriteTo(w io.Writer) (n int64, err error) {
	if c == nil {
		return 0, nil
	}
	for _, part := range c.parts {
		for i := range part {
			some, err := w.Write(part[i][:])
			n += int64(some)
			if err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// Len returns how many files are in the cache.
func (c *FileCache) Len() int {
	n := 0
	if c != nil {
		for _, part := range c.parts {
			n += len(part)
		}
	}
	return n
}

// find returns what the file with stamp s was stored as in layout how, and the index of
// its record in its part.
func (c *FileCache) find(s stamp, how layout) (l Link, i int, ok bool) {
	if c == nil {
		return Link{}, 0, false
	}
	key := s.hash(how)
	part := c.parts[key[0]]
	i, ok = sort.Find(len(part), func(i int) int { return bytes.Compare(key[:], part[i][:stampSize]) })
	if ok {
		l, ok = part[i].link()
	}
	return l, i, ok
}

// cacheBuilder collects the files of one import.
type cacheBuilder struct {
	before int64      // times have to be older, in nanoseconds since 1970
	layout layout     // of all
	known  *FileCache // whose records need not be collected; may be nil

	mu    sync.Mutex
	n     int           // records and keep
	parts [256][]record // those that are new
	keep  [256][]bool   // which of known.parts stay; nil is none
}

func newCacheBuilder(start time.Time, how layout, known *FileCache) *cacheBuilder {
	return &cacheBuilder{before: start.Add(-stampMargin).UnixNano(), layout: how, known: known}
}

// settled says whether a file with stamp s changed long enough ago.
func (b *cacheBuilder) settled(s stamp) bool { return max(s.mtime, s.changed) < b.before }

// add enters a file that was stored as l, unless it changed too lately.
func (b *cacheBuilder) add(s stamp, l Link) {
	hash, err := multihash.Decode(l.CID.Hash())
	if err != nil || len(hash.Digest) != 32 || !b.settled(s) {
		return
	}
	var r record
	key := s.hash(b.layout)
	rest := append(r[:0], key[:]...)
	rest = append(rest, byte(l.CID.Type()))
	rest = append(rest, hash.Digest...)
	binary.BigEndian.AppendUint64(rest, l.Size)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n < MaxCachedFiles {
		b.n++
		b.parts[r[0]] = append(b.parts[r[0]], r)
	}
}

// recall returns what the file with stamp s was stored as, if the known cache has it,
// and a function that enters it.
func (b *cacheBuilder) recall(s stamp) (l Link, enter func(), ok bool) {
	l, i, ok := b.known.find(s, b.layout)
	if !ok {
		return Link{}, nil, false
	}
	return l, func() {
		p := s.hash(b.layout)[0]
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.keep[p] == nil {
			b.keep[p] = make([]bool, len(b.known.parts[p]))
		}
		if !b.keep[p][i] && b.n < MaxCachedFiles && b.settled(s) {
			b.n++
			b.keep[p][i] = true
		}
	}, true
}

// build returns the cache. Part by part, so that there is little of it twice.
func (b *cacheBuilder) build() *FileCache {
	c := &FileCache{}
	for p := range c.parts {
		part := b.parts[p]
		b.parts[p] = nil
		if b.keep[p] != nil && len(part) == 0 && !slices.Contains(b.keep[p], false) {
			c.parts[p] = b.known.parts[p]
			continue
		}
		for i, keep := range b.keep[p] {
			if keep {
				part = append(part, b.known.parts[p][i])
			}
		}
		slices.SortFunc(part, func(x, y record) int { return bytes.Compare(x[:], y[:]) })
		c.parts[p] = slices.Compact(part) // a file may have several names
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
	l, enter, ok := w.seen.recall(s)
	if !ok {
		return Link{}, false, nil
	}
	held, err := w.isHeld(w.ctx, l.CID, maxFileDepth)
	if err != nil || !held {
		return Link{}, false, err
	}
	enter()
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
