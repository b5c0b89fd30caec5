package blockstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
)

// compactBelow is the share of a pack, in percent, that has to be in use for the
// pack to stay as it is. Copying more would free little for what it writes.
const compactBelow = 75

// smallPack is the part of maxPackSize, one in so many, below which packs are copied
// together: each collection seals the active pack, however little is in it.
const smallPack = 16

// ErrCollecting reports that a collection or a repair is under way already.
var ErrCollecting = errors.New("a collection or repair is under way already")

// Marks is the set of blocks that a collection leaves.
type Marks struct{ keys keySet }

// Add adds a block and says whether it was not in the set.
func (m *Marks) Add(c cid.Cid) bool { return m.keys.add(keyOf(c.Hash())) }

// GCStats tells what a collection did.
type GCStats struct {
	Blocks int   // blocks that were removed
	Freed  int64 // bytes on disk
}

// GCProgress tells how far a collection has come, in packs.
type GCProgress struct{ Packs, TotalPacks int }

// Collect removes the blocks that mark does not add to the marks, but for those
// that a Hold keeps or that were written since Collect began. Packs with few blocks
// left, and small ones, are copied. Reading and writing go on beside it.
//
// A crash in the middle leaves every block that is to stay; some may be there twice,
// and some that were to go may still be there. It fails with ErrCollecting if
// another collection runs, and stops between two packs when ctx ends.
func (s *Store) Collect(ctx context.Context, mark func(*Marks) error, progress func(GCProgress)) (stats GCStats, err error) {
	if err := s.beginCollecting(); err != nil {
		return GCStats{}, err
	}
	defer s.endCollecting()
	// What is written from here on goes to packs that are left alone.
	packs, err := s.sealAll()
	if err != nil {
		return GCStats{}, err
	}
	before := s.Stats()
	marks := &Marks{}
	if err := mark(marks); err != nil {
		return GCStats{}, err
	}
	plan, err := s.plan(ctx, packs, marks)
	if err != nil {
		return GCStats{}, err
	}
	var full error
	for i, p := range plan {
		if err := ctx.Err(); err != nil {
			return stats, err
		}
		if progress != nil {
			progress(GCProgress{i, len(plan)})
		}
		n, err := s.collectPack(ctx, p, marks)
		stats.Blocks += n
		switch {
		case errors.Is(err, ErrCorrupt):
			s.log.Error("a pack is damaged and stays", "pack", packName(p.number), "err", err)
			s.suspect(p)
		case errors.Is(err, ErrQuota):
			full = fmt.Errorf("collect %s: %w", packName(p.number), err) // others need less room
		case err != nil:
			return stats, fmt.Errorf("collect %s: %w", packName(p.number), err)
		}
		stats.Freed = max(before.DiskBytes-s.Stats().DiskBytes, 0)
	}
	if stats.Blocks > 0 {
		full = nil // the next collection has room
	}
	return stats, full
}

// plan returns the packs that are to go, those first from which least has to be copied:
// they make room for the others.
func (s *Store) plan(ctx context.Context, packs []*pack, marks *Marks) ([]*pack, error) {
	type candidate struct {
		*pack
		used  int64
		small bool
	}
	var candidates []candidate
	small := 0
	for _, p := range packs {
		stay, _, err := s.marked(ctx, p, marks)
		if err != nil {
			return nil, err
		}
		c := candidate{p, packHeader, p.size < s.maxPackSize/smallPack}
		for _, l := range stay {
			c.used += int64(l.size)
		}
		if c.used*100 < p.size*compactBelow {
			candidates = append(candidates, c)
		} else if c.small {
			candidates = append(candidates, c)
			small++
		}
	}
	if small == 1 { // there is nothing to put it together with
		candidates = slices.DeleteFunc(candidates, func(c candidate) bool { return c.used*100 >= c.size*compactBelow })
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })
	plan := make([]*pack, len(candidates))
	for i, c := range candidates {
		plan[i] = c.pack
	}
	return plan, nil
}

func (s *Store) beginCollecting() error {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	if s.collecting {
		return ErrCollecting
	}
	s.collecting = true
	for h := range s.holds {
		h.mu.Lock()
		h.absorbed = 0 // an earlier collection's marks are gone
		h.mu.Unlock()
	}
	return nil
}

func (s *Store) endCollecting() {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	s.collecting = false
	s.released = nil
	s.collected.Broadcast()
}

// sealAll seals the active pack and returns all packs.
func (s *Store) sealAll() ([]*pack, error) {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	s.tryRevive()
	if err := s.writable(); err != nil {
		return nil, err
	}
	if s.active != nil {
		if err := s.sealActive(s.active); err != nil {
			return nil, err
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.packs), nil
}

// marked returns which records of p are to stay, by offset, and how many there are.
func (s *Store) marked(ctx context.Context, p *pack, marks *Marks) (stay []located, total int, err error) {
	s.absorbHolds(marks)
	entries, err := s.entriesOf(p)
	if err != nil {
		return nil, 0, err
	}
	pace := s.pacer(ctx)
	for some := range slices.Chunk(entries, 512) {
		some = slices.DeleteFunc(some, func(l located) bool { return !marks.keys.has(l.key) })
		for {
			n := len(stay)
			if stay, err = s.newestIn(p, some, stay); err == nil {
				break
			}
			stay = stay[:n]
			if err := s.mend(err); err != nil {
				return nil, 0, err
			}
		}
		if err := pace(); err != nil {
			return nil, 0, err
		}
	}
	return stay, len(entries), nil
}

// newestIn appends to out those of the records of p of which no other pack has a newer
// one: a crash may leave a block twice. One that could not be read may be readable
// again; this is for copyRecords to see.
func (s *Store) newestIn(p *pack, records, out []located) ([]located, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return out, ErrClosed
	}
	for _, l := range records {
		for _, other := range slices.Backward(s.packs) {
			if other == p {
				out = append(out, l)
				break
			}
			if _, ok, err := findIn(other, l.key); err != nil {
				return out, err
			} else if ok {
				break
			}
		}
	}
	return out, nil
}

// collectPack removes p and copies those of its blocks that are to stay. It returns
// how many blocks went.
func (s *Store) collectPack(ctx context.Context, p *pack, marks *Marks) (removed int, err error) {
	stay, total, err := s.marked(ctx, p, marks)
	if err != nil {
		return 0, err
	}
	for left := stay; ; {
		if err := s.copyRecords(ctx, p, left); err != nil {
			return 0, err
		}
		// A block may have been found, and kept, while others were copied.
		var gone bool
		if left, gone, err = s.removePack(p, stay, marks); err != nil {
			if err = s.mend(err); err == nil {
				left, _, err = s.marked(ctx, p, marks) // it took from holds what it did not look up
			}
		}
		if err != nil {
			return 0, err
		}
		if gone {
			return total - len(stay), nil
		}
		stay = append(stay, left...)
		sortByOffset(stay)
	}
}

// pacer returns a function for work that can wait to call again and again. While
// others read and write, it sleeps four times as long as the work took.
func (s *Store) pacer(ctx context.Context) func() error {
	began := time.Now()
	return func() error {
		worked := time.Since(began)
		if worked < time.Millisecond {
			return ctx.Err()
		}
		if s.inUse.Swap(false) {
			if err := sleep(ctx, 4*worked); err != nil {
				return err
			}
		}
		began = time.Now()
		return ctx.Err()
	}
}

// use notes that somebody reads or writes, for pacer.
func (s *Store) use() {
	if !s.inUse.Load() { // which cores can share, as long as nobody stores
		s.inUse.Store(true)
	}
}

// absorbHolds marks what holds came to keep since the last call, and returns it.
func (s *Store) absorbHolds(marks *Marks) []key {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	var fresh []key
	absorb := func(h *Hold) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for ; h.absorbed < h.keys.len(); h.absorbed++ {
			k := *h.keys.at(h.absorbed)
			fresh = append(fresh, k)
			marks.keys.add(k)
		}
	}
	for h := range s.holds {
		absorb(h)
	}
	for _, h := range s.released {
		absorb(h)
	}
	s.released = nil
	return fresh
}

// copyRecords appends records of p, which are sorted by offset, to the active pack,
// durably.
func (s *Store) copyRecords(ctx context.Context, p *pack, records []located) error {
	epoch := s.currentEpoch()
	pace := s.pacer(ctx)
	var (
		batch   []byte
		moved   []key
		entries []entry
	)
	flush := func() error {
		if len(moved) == 0 {
			return nil
		}
		err := s.append(batch, nil, moved, entries, true)
		batch, moved, entries = batch[:0], moved[:0], entries[:0]
		return err
	}
	for _, l := range records {
		start := len(batch)
		batch = slices.Grow(batch, int(l.size))[:start+int(l.size)]
		// The only copy may be in here: if it is damaged, the pack stays as it is.
		if _, err := p.file.ReadAt(batch[start:], int64(l.offset)); errors.Is(err, fs.ErrClosed) {
			return ErrClosed
		} else if err != nil {
			return &damagedRecord{l, err}
		}
		if h, ok := soundRecord(batch[start:]); !ok || h.size() != int(l.size) || keyOf(h.mh) != l.key {
			return &damagedRecord{l, errBadRecord}
		}
		moved = append(moved, l.key)
		entries = append(entries, entry{uint32(start), l.size, l.raw})
		if len(batch) >= flushSize {
			if err := flush(); err != nil {
				return err
			}
		}
		if err := pace(); err != nil {
			return err
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return s.syncSince(epoch)
}

// damagedRecord is an ErrCorrupt.
type damagedRecord struct {
	located
	cause error
}

func (e *damagedRecord) Error() string {
	return fmt.Sprintf("record at %d: %v: %v", e.offset, ErrCorrupt, e.cause)
}

func (e *damagedRecord) Unwrap() []error { return []error{ErrCorrupt, e.cause} }

// removePack takes p out of the store and deletes its files, if all that is marked
// in it was copied, which is sorted by offset. Otherwise it returns what was not.
func (s *Store) removePack(p *pack, copied []located, marks *Marks) (left []located, gone bool, err error) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, false, ErrClosed
	}
	// Blocks are found, and kept, under mu: none can be from here on.
	for _, k := range s.absorbHolds(marks) {
		e, ok, err := findIn(p, k)
		if err != nil {
			s.mu.Unlock()
			return nil, false, err
		}
		if !ok {
			continue
		}
		_, done := slices.BinarySearchFunc(copied, e.offset, func(l located, offset uint32) int { return cmp.Compare(l.offset, offset) })
		newest, _, _, err := s.locate(k)
		if err != nil {
			s.mu.Unlock()
			return nil, false, err
		}
		if newest == p && !done {
			left = append(left, located{k, e})
		}
	}
	if len(left) > 0 {
		s.mu.Unlock()
		return sortByOffset(left), false, nil
	}
	s.packs = slices.DeleteFunc(s.packs, func(other *pack) bool { return other == p })
	delete(s.suspects, p.number)
	err = p.index.close()
	s.mu.Unlock()
	// A read under way fails, and is tried again where the block is now.
	err = errors.Join(err, p.file.Close(), s.removeIndex(p.number))
	return nil, true, errors.Join(err, s.dir.Remove(packName(p.number)), s.dir.Sync())
}

// removeIndex removes the index file of a pack, if there is one.
func (s *Store) removeIndex(number uint32) error {
	if err := s.dir.Remove(indexName(number)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func sortByOffset(l []located) []located {
	slices.SortFunc(l, func(a, b located) int { return cmp.Compare(a.offset, b.offset) })
	return l
}
