package blockstore

import (
	"errors"
	"fmt"
	"math"
	"syscall"
)

// append writes a batch of records, and payload, which the last of them lacks, to the
// active pack and makes them readable. Entries' offsets are relative to the batch. moved says that the blocks are held
// elsewhere too, for now. A failed write changes nothing: the next batch overwrites
// its remains.
func (s *Store) append(batch, payload []byte, keys []key, entries []entry, moved bool) error {
	if !moved {
		s.use()
	}
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if err := s.writable(); err != nil {
		return err
	}
	n := len(batch) + len(payload)
	if err := s.allow(int64(n+len(keys)*entrySize), moved); err != nil {
		return err
	}
	p, err := s.room()
	if err != nil {
		return err
	}
	_, err = p.file.WriteAt(batch, p.size)
	if err == nil && len(payload) > 0 {
		_, err = p.file.WriteAt(payload, p.size+int64(len(batch)))
	}
	if err != nil {
		err = fmt.Errorf("write %s: %w", packName(p.number), err)
		if errors.Is(err, syscall.EROFS) {
			return s.fail(err) // not this write alone
		}
		return err
	}
	s.mu.Lock()
	// Counted before it can be seen: whoever finds a block that another writer
	// brought must wait for its sync.
	s.appended.Add(1)
	for i, k := range keys {
		// Should an index be unreadable, it is for the next look-up to mend. The block
		// may be there twice then.
		if !moved {
			if _, _, ok, err := s.find(k); ok && err == nil {
				continue // another writer was faster
			}
		}
		e := entries[i]
		e.offset += uint32(p.size)
		p.index.add(k, e)
		delete(s.damaged, k)
	}
	p.size += int64(n)
	s.mu.Unlock()
	s.syncSoon(n)
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
	next, err := s.createPack()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.packs = append(s.packs, next)
	s.active = next
	s.mu.Unlock()
	return next, nil
}

// createPack makes an empty pack, the next in order. The caller holds appendMu.
func (s *Store) createPack() (*pack, error) {
	if s.lastNumber == math.MaxUint32 {
		return nil, errors.New("no number is left for a pack")
	}
	s.lastNumber++ // used up even by a failure, which may leave a file
	p, err := createPack(s.dir, s.lastNumber)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", packName(s.lastNumber), err)
	}
	return p, nil
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
		s.logNoIndex(p, err)
	}
	s.mu.Lock()
	if err == nil {
		p.index = sealed.index
	}
	s.active = nil
	s.mu.Unlock()
	return nil
}
