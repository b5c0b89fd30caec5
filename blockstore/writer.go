package blockstore

// flushSize is how many bytes of records a Writer gathers before it appends
// them to the pack in one write.
const flushSize = 1 << 20

// copyBelow is how long a payload may be to be gathered too. A longer one is written
// from where it is: to copy it would take as long as to write it again.
const copyBelow = flushSize / 2

// Writer compresses blocks and appends them in large writes. It is for one
// goroutine; many Writers may write to a Store at once, which spreads hashing
// and compression over the cores. A Writer that is dropped without Flush loses
// only what it gathered.
type Writer struct {
	store   *Store
	hold    *Hold // keeps what is written; may be nil
	batch   []byte
	keys    []key
	entries []entry
	pending map[key]struct{} // keys, for duplicates within the batch
}

// NewWriter returns a Writer.
func (s *Store) NewWriter() *Writer {
	return &Writer{store: s, pending: make(map[key]struct{})}
}

// Write adds a block unless the store or this writer holds it, and says whether
// it did. The block is readable after the next Flush, which Write calls when
// enough has gathered, and durable after a Sync of the store that follows.
func (w *Writer) Write(b Block) (added bool, err error) {
	if isIdentity(b.cid) {
		return false, nil
	}
	k := keyOf(b.cid.Hash())
	if _, ok := w.pending[k]; ok {
		return false, nil
	}
	if ok, err := w.store.has(b.cid, w.hold); ok || err != nil {
		return false, err
	}
	w.hold.keep(k, len(b.data))
	start := len(w.batch)
	batch, payload := w.store.startRecord(w.batch, b)
	w.batch = batch
	w.keys = append(w.keys, k)
	w.entries = append(w.entries, entry{uint32(start), uint32(len(batch) - start + len(payload)), uint32(len(b.data))})
	w.pending[k] = struct{}{}
	if len(payload) >= copyBelow {
		return true, w.flush(payload)
	}
	if w.batch = append(w.batch, payload...); len(w.batch) >= flushSize {
		return true, w.flush(nil)
	}
	return true, nil
}

// Flush makes all blocks written so far readable. It does not make them durable.
// After an error they are dropped.
func (w *Writer) Flush() error {
	if len(w.keys) == 0 {
		return nil
	}
	return w.flush(nil)
}

// flush is Flush of the batch and of payload, which the last record lacks.
func (w *Writer) flush(payload []byte) error {
	err := w.store.append(w.batch, payload, w.keys, w.entries, false)
	w.batch, w.keys, w.entries = w.batch[:0], w.keys[:0], w.entries[:0]
	clear(w.pending)
	return err
}
