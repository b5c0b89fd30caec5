package blockstore

import (
	"errors"
	"fmt"
	"slices"
)

// Sync makes durable all that writers have flushed. Calls at the same time share
// one sync of the file.
//
// After an error the store is read-only: what the kernel does with pages that it
// failed to write cannot be known. The next Put, Hold, Collect or Repair looks whether
// the disk works again (see revive). Whoever writes with a Writer has to call Hold.Sync
// instead, which tells whether all of it is still there.
func (s *Store) Sync() error { return s.syncSince(s.currentEpoch()) }

// currentEpoch returns how often the store has been revived.
func (s *Store) currentEpoch() uint64 {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	return s.epoch
}

// syncSince is Sync for writes that were flushed in the given epoch or later. It
// fails if some of them may have been lost.
func (s *Store) syncSince(epoch uint64) error {
	want := s.appended.Load()
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	for {
		switch {
		case s.epoch != epoch:
			return s.lost
		case s.synced >= want:
			return nil
		case s.failed != nil:
			return s.failed
		case s.syncing:
			s.syncEnd.Wait()
			continue
		}
		s.syncing = true
		s.syncMu.Unlock()

		upTo := s.appended.Load()
		s.mu.RLock()
		p := s.active
		s.mu.RUnlock()
		var err error
		if p != nil { // else it was sealed, and so synced, just now
			err = p.file.Sync()
		}

		s.syncMu.Lock()
		s.syncing = false
		s.syncEnd.Broadcast()
		if err != nil {
			s.failLocked(fmt.Errorf("sync %s: %w", packName(p.number), err))
			return s.failed
		}
		s.synced = max(s.synced, upTo)
	}
}

// ReadOnly returns why the store is read-only, an error that wraps ErrReadOnly, or
// nil if it is not.
func (s *Store) ReadOnly() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	return s.failed
}

// fail makes the store read-only because of cause, and returns the error that
// writes get from then on.
func (s *Store) fail(cause error) error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.failLocked(cause)
	return s.failed
}

func (s *Store) failLocked(cause error) {
	if s.failed == nil {
		s.failed = fmt.Errorf("%w: %w", ErrReadOnly, cause)
		s.log.Error("block store is read-only until the disk works again", "err", cause)
	}
}

// writable returns nil if the store may be written to.
func (s *Store) writable() error {
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	return s.ReadOnly()
}

// begin starts an operation that writes, and returns its epoch, for syncSince. If the
// store is read-only it looks whether the disk works again.
func (s *Store) begin() (epoch uint64) {
	if s.ReadOnly() != nil {
		s.appendMu.Lock()
		s.tryRevive()
		s.appendMu.Unlock()
	}
	return s.currentEpoch()
}

// tryRevive revives the store if it is read-only and can be. The caller holds appendMu.
func (s *Store) tryRevive() {
	if errors.Is(s.writable(), ErrReadOnly) {
		if err := s.revive(); err != nil {
			s.log.Debug("block store is still read-only", "err", err)
		}
	}
}

// revive makes a read-only store writable: it begins a new pack, which shows that
// the disk takes writes, and takes of the active one, like a start after a crash,
// what the disk has. Blocks that were acknowledged are among that. Those that were
// not may be lost, and the epoch that ends here tells their writers. The caller holds
// appendMu.
func (s *Store) revive() error {
	s.syncMu.Lock()
	for s.syncing {
		s.syncEnd.Wait()
	}
	s.syncMu.Unlock()
	next, err := s.createPack()
	if err != nil {
		return err
	}
	if s.active != nil {
		if _, err := s.reopen(s.active); err != nil {
			return errors.Join(err, next.file.Close(), s.dir.Remove(packName(next.number)))
		}
	}
	s.mu.Lock()
	s.packs = append(s.packs, next)
	s.active = next
	s.mu.Unlock()

	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.lost = fmt.Errorf("writes were lost when the disk failed: %w", s.failed)
	s.failed = nil
	s.epoch++
	s.synced = s.appended.Load()
	s.log.Info("block store is writable again")
	return nil
}

// reopen replays a pack that was being written, or could not be read, when the disk
// failed, and finishes it. What is read from the disk takes the place of old.
func (s *Store) reopen(old *pack) (*pack, error) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	p, _, err := openPack(s.dir, old.number, s.isSound)
	if err != nil {
		return nil, err
	}
	if p.unreadable {
		err = fmt.Errorf("read %s: the disk still fails", packName(p.number))
	} else if p.index.sealed == nil {
		err = p.finish()
	}
	if err != nil {
		return nil, errors.Join(err, p.index.close(), p.file.Close())
	}
	if p.index.sealed == nil {
		if err := p.writeIndex(s.dir); err != nil {
			s.logNoIndex(p, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packs[slices.Index(s.packs, old)] = p
	// Reads under way are tried again.
	return p, errors.Join(old.index.close(), old.file.Close())
}

// logNoIndex tells that a finished pack has no index file.
func (s *Store) logNoIndex(p *pack, err error) {
	s.log.Error("cannot write an index, it stays in memory", "pack", packName(p.number), "err", err)
}
