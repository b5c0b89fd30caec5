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
	// ErrReadOnly reports a store that takes no writes because the disk failed to
	// make one durable, and has not been seen to work since.
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

	// indexMu is held while an index is rebuilt, and while a pack or all of the store
	// is taken out of use. It is taken after appendMu and before mu.
	indexMu sync.Mutex

	mu     sync.RWMutex // guards the fields below, and every pack's index and whether it is unreadable
	packs  []*pack      // by number; only the last may be active
	active *pack        // the pack being written; nil before the first write, and after a seal
	// damaged are blocks whose record could not be read back. They count as not
	// held, so that they are fetched and stored again.
	damaged map[key]struct{}
	// suspects are the numbers of packs in which damage was found.
	suspects map[uint32]struct{}
	// quarantined are packs that were damaged, number to bytes. Their sound blocks
	// have been copied.
	quarantined map[uint32]int64
	closed      bool

	holdMu     sync.Mutex // guards the fields below; taken after mu
	holds      map[*Hold]struct{}
	collecting bool    // or repairing
	released   []*Hold // since the collection began
	collected  *sync.Cond

	damage chan struct{} // see Damaged
	inUse  atomic.Bool   // somebody read or wrote lately; see pacer

	appended atomic.Uint64 // number of batches in the active pack and before

	syncMu  sync.Mutex // guards the fields below
	syncEnd *sync.Cond
	syncing bool
	synced  uint64 // batches that are durable, or lost with an earlier epoch
	failed  error  // why the store is read-only, or nil
	epoch   uint64 // how often the store was read-only and is not any more
	lost    error  // what those who wrote in an earlier epoch are told
}

// Stats describes what a Store holds.
type Stats struct {
	Blocks    int   // number of blocks
	Bytes     int64 // sum of their lengths
	DiskBytes int64 // bytes that packs and indexes take
	// QuarantinedBytes are those of DiskBytes that packs in quarantine take.
	QuarantinedBytes int64
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
		damaged: make(map[key]struct{}), suspects: make(map[uint32]struct{}), quarantined: make(map[uint32]int64),
		holds: make(map[*Hold]struct{}), damage: make(chan struct{}, 1),
	}
	s.syncEnd = sync.NewCond(&s.syncMu)
	s.collected = sync.NewCond(&s.holdMu)
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) full(p *pack) bool {
	return p.size >= s.maxPackSize || p.index.count >= s.maxPackRecords
}

// find returns the newest pack that holds k, unless the block could not be read back.
// The caller holds mu, and mends an error.
func (s *Store) find(k key) (*pack, entry, bool, error) {
	if _, bad := s.damaged[k]; bad {
		return nil, entry{}, false, nil
	}
	return s.locate(k)
}

// locate returns the newest pack whose index has k: an older one may have a damaged
// record that was replaced. The caller holds mu, and mends an error.
func (s *Store) locate(k key) (*pack, entry, bool, error) {
	for _, p := range slices.Backward(s.packs) {
		if e, ok, err := findIn(p, k); ok || err != nil {
			return p, e, ok, err
		}
	}
	return nil, entry{}, false, nil
}

func (s *Store) lookup(c cid.Cid, hold *Hold) (*pack, entry, bool, error) {
	s.use()
	if err := CheckCID(c); err != nil {
		return nil, entry{}, false, err
	}
	return s.lookupKey(keyOf(c.Hash()), hold)
}

// lookupKey is find, and keeps the block, if it is held, in hold, which may be nil.
func (s *Store) lookupKey(k key, hold *Hold) (*pack, entry, bool, error) {
	for {
		p, e, ok, err := s.tryLookup(k, hold)
		if err == nil {
			return p, e, ok, nil
		}
		if err := s.mend(err); err != nil {
			return nil, entry{}, false, err
		}
	}
}

func (s *Store) tryLookup(k key, hold *Hold) (*pack, entry, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, entry{}, false, ErrClosed
	}
	p, e, ok, err := s.find(k)
	if ok {
		hold.keep(k, int(e.raw))
	}
	return p, e, ok, err
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
	for {
		p, e, ok, err := s.lookup(c, nil)
		if err != nil {
			return Block{}, err
		}
		if !ok {
			return Block{}, fmt.Errorf("%s: %w", c, ErrNotFound)
		}
		if data, ok := s.cache.get(c.Hash()); ok {
			return Block{cid: c, data: data}, nil
		}
		record := make([]byte, e.size)
		_, err = p.file.ReadAt(record, int64(e.offset))
		// A pack that was collected meanwhile is closed; the block, if it stayed, is
		// elsewhere now.
		if errors.Is(err, fs.ErrClosed) {
			continue
		}
		var b Block
		if err == nil {
			b, err = s.decodeBlock(c, record)
		}
		if err == nil {
			s.cache.add(c.Hash(), b.data)
			return b, nil
		}
		if err := s.damagedAt(p, e, c, err); err != nil {
			return Block{}, err
		}
	}
}

// decodeBlock returns the block in record, if it is c.
func (s *Store) decodeBlock(c cid.Cid, record []byte) (Block, error) {
	data, err := s.decodeRecord(record)
	if err != nil {
		return Block{}, err
	}
	return NewBlock(c, data)
}

// damagedAt notes that a block cannot be read back because of cause, and returns the
// error for it; or nil if the block is elsewhere by now.
func (s *Store) damagedAt(p *pack, e entry, c cid.Cid, cause error) error {
	k := keyOf(c.Hash())
	s.mu.Lock()
	newest, at, ok, err := s.locate(k)
	if err != nil || !s.closed && ok && (newest != p || at != e) {
		s.mu.Unlock()
		return nil // to be looked up again, which mends an index
	}
	s.damaged[k] = struct{}{}
	s.suspectLocked(p)
	s.mu.Unlock()
	err = fmt.Errorf("%s at %d in %s: %w (%w)", c, e.offset, packName(p.number), ErrCorrupt, cause)
	s.log.Error("block is damaged on disk", "err", err)
	return err
}

// suspect notes that p is damaged.
func (s *Store) suspect(p *pack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspectLocked(p)
}

// suspectLocked notes that p is damaged. The caller holds mu.
func (s *Store) suspectLocked(p *pack) {
	s.suspects[p.number] = struct{}{}
	s.signalDamage()
}

func (s *Store) signalDamage() {
	select {
	case s.damage <- struct{}{}:
	default:
	}
}

// Damaged returns a channel that yields a value when damage was found that Repair
// has not seen: on opening, by Get or by Scrub. It is for one reader.
func (s *Store) Damaged() <-chan struct{} { return s.damage }

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
	return Block{cid: c, data: d.Digest}, nil
}

// Put stores blocks. They are durable when it returns without error.
func (s *Store) Put(blocks ...Block) error {
	epoch := s.begin()
	w := s.NewWriter()
	for _, b := range blocks {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return s.syncSince(epoch)
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
	for _, size := range s.quarantined {
		st.QuarantinedBytes += size
	}
	st.DiskBytes += st.QuarantinedBytes
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
	s.holdMu.Lock()
	for s.collecting { // it ends, now that the store is closed
		s.collected.Wait()
	}
	s.holdMu.Unlock()
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.packs {
		err = errors.Join(err, p.index.close(), p.file.Close())
	}
	return err // encoder and decoder are left to reads under way
}
