package blockstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/multiformats/go-multihash"
)

var (
	// ErrNotFound reports a block that the store does not hold.
	ErrNotFound = errors.New("block not found")
	// ErrCorrupt reports a block that the store holds but cannot read back
	// whole: the disk changed it.
	ErrCorrupt = errors.New("block is damaged on disk")
	// ErrReadOnly reports a store that stopped writing because the disk failed
	// to make a write durable.
	ErrReadOnly = errors.New("block store is read-only")
	// ErrClosed reports use after Close.
	ErrClosed = errors.New("block store is closed")
)

// syncEvery is how many bytes of records are written between two syncs that
// nobody asked for.
const syncEvery = 16 << 20

// Store holds blocks in the packs of one directory. Its methods may be called
// from any number of goroutines. Exactly one Store may use a directory at a time,
// which is for the caller to ensure.
type Store struct {
	dir     FS
	log     *slog.Logger
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	cache   *cache

	maxPackSize    int64 // the constants, but for tests
	maxPackRecords int

	// appendMu serialises writing to the active pack and replacing it, and guards
	// the fields below. It is taken before mu.
	appendMu   sync.Mutex
	lastNumber uint32 // of the packs that there are or were
	limits     Limits
	unsynced   int            // bytes appended since the last background sync began
	background sync.WaitGroup // background syncs

	mu     sync.RWMutex // guards the fields below, and every pack's index
	packs  []*pack      // by number; only the last may be active
	active *pack        // the pack being written; nil before the first write, and after a seal
	// damaged are blocks whose record could not be read back. They count as not
	// held, so that they are fetched and stored again.
	damaged map[key]struct{}
	closed  bool

	holdMu     sync.Mutex // guards the fields below; taken after mu
	holds      map[*Hold]struct{}
	collecting bool
	released   []*Hold // since the collection began

	appended atomic.Uint64 // number of batches in the active pack and before

	syncMu  sync.Mutex // guards the fields below
	syncEnd *sync.Cond
	syncing bool
	synced  uint64 // batches that are durable
	failed  error  // why the store is read-only, or nil
}

// Stats describes what a Store holds.
type Stats struct {
	Blocks    int   // number of blocks
	Bytes     int64 // sum of their lengths
	DiskBytes int64 // bytes that packs and indexes take
}

// Open opens the store in dir, which may be empty. Packs whose index is missing,
// damaged or stale are replayed from their records, as after a crash. It fails
// with ErrNewerFormat, changing nothing, if a later version wrote the store.
func Open(dir FS, log *slog.Logger) (*Store, error) {
	encoder, decoder, err := newCodec()
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, log: log, encoder: encoder, decoder: decoder, cache: newCache(cacheSize),
		maxPackSize: maxPackSize, maxPackRecords: maxPackRecords,
		damaged: make(map[key]struct{}), holds: make(map[*Hold]struct{}),
	}
	s.syncEnd = sync.NewCond(&s.syncMu)
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) full(p *pack) bool {
	return p.size >= s.maxPackSize || p.index.count >= s.maxPackRecords
}

// recoverHeadless removes what a crash left of the making of a pack: no record is
// written before the head is durable. A pack that lost its head otherwise is read at
// each start, since there is nothing to tie an index to.
func (s *Store) recoverHeadless(p *pack) error {
	size, err := p.file.Size()
	if err != nil || size > packHeader {
		return err
	}
	s.packs = slices.DeleteFunc(s.packs, func(other *pack) bool { return other == p })
	return errors.Join(p.file.Close(), s.dir.Remove(packName(p.number)), s.dir.Sync())
}

// find returns the newest pack that holds k: an older one may have a damaged
// record that was replaced. The caller holds mu.
func (s *Store) find(k key) (*pack, entry, bool) {
	if _, bad := s.damaged[k]; bad {
		return nil, entry{}, false
	}
	for _, p := range slices.Backward(s.packs) {
		if e, ok := p.index.find(k); ok {
			return p, e, true
		}
	}
	return nil, entry{}, false
}

func (s *Store) lookup(c cid.Cid, hold *Hold) (*pack, entry, bool, error) {
	if err := CheckCID(c); err != nil {
		return nil, entry{}, false, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, entry{}, false, ErrClosed
	}
	k := keyOf(c.Hash())
	p, e, ok := s.find(k)
	if ok {
		hold.keep(k)
	}
	return p, e, ok, nil
}

// Has says whether the store holds the block. Identity CIDs, which carry their
// block, are always held.
func (s *Store) Has(c cid.Cid) (bool, error) { return s.has(c, nil) }

// has is Has; hold, if not nil, keeps the block from being collected from the
// moment at which it is found.
func (s *Store) has(c cid.Cid, hold *Hold) (bool, error) {
	if isIdentity(c) {
		return true, CheckCID(c)
	}
	_, _, ok, err := s.lookup(c, hold)
	return ok, err
}

// Size returns the length of a block in bytes, or an error that wraps ErrNotFound.
func (s *Store) Size(c cid.Cid) (int, error) {
	if isIdentity(c) {
		b, err := identityBlock(c)
		return len(b.data), err
	}
	_, e, ok, err := s.lookup(c, nil)
	if err == nil && !ok {
		err = fmt.Errorf("%s: %w", c, ErrNotFound)
	}
	return int(e.raw), err
}

// Get reads a block and verifies it. The error wraps ErrNotFound if the store
// does not hold it, and ErrCorrupt if the disk gave back something else: from then
// on the store does not hold it, until it is stored again.
func (s *Store) Get(ctx context.Context, c cid.Cid) (Block, error) {
	if err := ctx.Err(); err != nil {
		return Block{}, err
	}
	if isIdentity(c) {
		return identityBlock(c)
	}
	var (
		p      *pack
		e      entry
		record []byte
	)
	for {
		var ok bool
		var err error
		if p, e, ok, err = s.lookup(c, nil); err != nil {
			return Block{}, err
		}
		if !ok {
			return Block{}, fmt.Errorf("%s: %w", c, ErrNotFound)
		}
		if data, ok := s.cache.get(c.Hash()); ok {
			return Block{c, data}, nil
		}
		record = make([]byte, e.size)
		_, err = p.file.ReadAt(record, int64(e.offset))
		if err == nil {
			break
		}
		// A pack that was collected meanwhile is closed; the block, if it stayed, is
		// elsewhere now.
		if !errors.Is(err, fs.ErrClosed) {
			return Block{}, fmt.Errorf("read %s: %w", c, err)
		}
	}
	data, err := s.decodeRecord(record)
	if err == nil {
		var b Block
		if b, err = NewBlock(c, data); err == nil {
			s.cache.add(c.Hash(), data)
			return b, nil
		}
	}
	s.mu.Lock()
	s.damaged[keyOf(c.Hash())] = struct{}{}
	s.mu.Unlock()
	err = fmt.Errorf("%s at %d in %s: %w (%w)", c, e.offset, packName(p.number), ErrCorrupt, err)
	s.log.Error("block is damaged on disk", "err", err)
	return Block{}, err
}

func isIdentity(c cid.Cid) bool {
	return c.Defined() && c.Prefix().MhType == multihash.IDENTITY
}

func identityBlock(c cid.Cid) (Block, error) {
	if err := CheckCID(c); err != nil {
		return Block{}, err
	}
	d, err := multihash.Decode(c.Hash())
	if err != nil {
		return Block{}, err
	}
	return Block{c, d.Digest}, nil
}

// Put stores blocks. They are durable when it returns without error.
func (s *Store) Put(blocks ...Block) error {
	w := s.NewWriter()
	for _, b := range blocks {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return s.Sync()
}

// append writes a batch of records to the active pack and makes them readable.
// Entries' offsets are relative to the batch. moved says that the blocks are held
// elsewhere too, for now. A failed write changes nothing: the next batch overwrites
// its remains.
func (s *Store) append(batch []byte, keys []key, entries []entry, moved bool) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if err := s.writable(); err != nil {
		return err
	}
	if err := s.allow(int64(len(batch)+len(keys)*entrySize), moved); err != nil {
		return err
	}
	p, err := s.room()
	if err != nil {
		return err
	}
	if _, err := p.file.WriteAt(batch, p.size); err != nil {
		return fmt.Errorf("write %s: %w", packName(p.number), err)
	}
	s.mu.Lock()
	// Counted before it can be seen: whoever finds a block that another writer
	// brought must wait for its sync.
	s.appended.Add(1)
	for i, k := range keys {
		if _, _, ok := s.find(k); ok && !moved {
			continue // another writer was faster
		}
		e := entries[i]
		e.offset += uint32(p.size)
		p.index.add(k, e)
		delete(s.damaged, k)
	}
	p.size += int64(len(batch))
	s.mu.Unlock()
	s.syncSoon(len(batch))
	return nil
}

// syncSoon begins a sync now and then, so that the one that somebody waits for
// finds little left to do. The caller holds appendMu.
func (s *Store) syncSoon(n int) {
	if s.unsynced += n; s.unsynced >= syncEvery {
		s.unsynced = 0
		s.background.Go(func() { s.Sync() }) // an error is kept in failed
	}
}

// room returns the active pack, or a new one if it is full. The caller holds
// appendMu.
func (s *Store) room() (*pack, error) {
	if p := s.active; p != nil {
		if !s.full(p) {
			return p, nil
		}
		if err := s.sealActive(p); err != nil {
			return nil, err
		}
	}
	number := s.lastNumber + 1
	next, err := createPack(s.dir, number)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", packName(number), err)
	}
	s.lastNumber = number
	s.mu.Lock()
	s.packs = append(s.packs, next)
	s.active = next
	s.mu.Unlock()
	return next, nil
}

// sealActive seals p while readers go on.
func (s *Store) sealActive(p *pack) error {
	// Through Sync, which knows of syncs that failed: the kernel tells of a failure
	// once, and a second sync of the same file succeeds.
	if err := s.Sync(); err != nil {
		return err
	}
	if err := p.finish(); err != nil {
		return s.fail(fmt.Errorf("sync %s: %w", packName(p.number), err))
	}
	sealed := *p // readers keep to p's live index meanwhile
	err := sealed.writeIndex(s.dir)
	if err != nil {
		s.log.Error("cannot write an index, it stays in memory", "pack", packName(p.number), "err", err)
	}
	s.mu.Lock()
	if err == nil {
		p.index = sealed.index
	}
	s.active = nil
	s.mu.Unlock()
	return nil
}

// Stats returns what the store holds.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var st Stats
	for _, p := range s.packs {
		st.Blocks += p.index.count
		st.Bytes += p.index.rawBytes
		st.DiskBytes += p.size + p.index.size()
	}
	return st
}

// Close makes what was flushed durable and releases the files. Reads under way
// fail or finish.
func (s *Store) Close() error {
	s.appendMu.Lock()
	s.mu.Lock()
	closed := s.closed
	s.closed = true // nothing is appended from here on
	s.mu.Unlock()
	s.appendMu.Unlock()
	if closed {
		return nil
	}
	s.background.Wait()
	err := s.Sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.packs {
		err = errors.Join(err, p.index.close(), p.file.Close())
	}
	return err // encoder and decoder are left to reads under way
}
