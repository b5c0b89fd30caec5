package blockstore

import (
	"sync"

	"github.com/ipfs/go-cid"
)

// Hold keeps blocks from being collected while an operation, such as an import,
// needs them and nothing leads to them yet: those that it wrote, and those that it
// found to be held. It is the store, but for that, and may be used by many
// goroutines. It takes some 45 bytes for each block until it is released.
type Hold struct {
	*Store
	epoch uint64 // in which the operation began

	mu       sync.Mutex
	keys     keySet
	bytes    int64 // sum of the blocks' lengths
	absorbed int   // of keys: how many a collection knows
}

// Hold begins an operation. Release ends it.
func (s *Store) Hold() *Hold {
	h := &Hold{Store: s, epoch: s.begin()}
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	s.holds[h] = struct{}{}
	return h
}

// Release ends the operation. By then something that is kept has to lead to the
// blocks that are to stay.
func (h *Hold) Release() {
	h.holdMu.Lock()
	defer h.holdMu.Unlock()
	delete(h.holds, h)
	if h.collecting {
		// A collection that looked for what is kept before this operation was done
		// does not know of it.
		h.released = append(h.released, h)
	}
}

// Has is Store.Has, and keeps the block if it is held.
func (h *Hold) Has(c cid.Cid) (bool, error) { return h.has(c, h) }

// NewWriter is Store.NewWriter, and keeps all blocks that are written.
func (h *Hold) NewWriter() *Writer {
	w := h.Store.NewWriter()
	w.hold = h
	return w
}

// Sync is Store.Sync, and fails if anything that was written or found since the
// operation began may have been lost when the disk failed.
func (h *Hold) Sync() error { return h.syncSince(h.epoch) }

// Kept returns how many blocks the operation wrote or found so far, each counted once,
// and the sum of their lengths.
func (h *Hold) Kept() (blocks, bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(h.keys.len()), h.bytes
}

// keep keeps a block of the given length.
func (h *Hold) keep(k key, length int) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keys.add(k) {
		h.bytes += int64(length)
	}
}
