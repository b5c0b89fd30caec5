package blockstore

import "fmt"

// Sync makes durable all that writers have flushed. Calls at the same time share
// one sync of the file. After an error the store is read-only: what the kernel
// does with pages that it failed to write cannot be known.
func (s *Store) Sync() error {
	want := s.appended.Load()
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	for s.synced < want {
		if s.failed != nil {
			return s.failed
		}
		if s.syncing {
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
	return nil
}

func (s *Store) writable() error {
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	return s.failed
}

// fail makes the store read-only because of cause, and returns the error that
// all later writes get.
func (s *Store) fail(cause error) error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.failLocked(cause)
	return s.failed
}

func (s *Store) failLocked(cause error) {
	if s.failed == nil {
		s.failed = fmt.Errorf("%w: %w", ErrReadOnly, cause)
		s.log.Error("block store is read-only until restart", "err", cause)
	}
}
