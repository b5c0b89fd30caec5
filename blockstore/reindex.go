package blockstore

import (
	"errors"
	"fmt"
	"slices"
)

// indexError reports that the index file of a pack cannot be read as it was written.
// What it would have said is not known, so it is no answer to anything: whoever meets
// it calls mend, and asks again.
type indexError struct {
	pack   *pack
	broken *sealedIndex
	cause  error
}

func (e *indexError) Error() string { return fmt.Sprintf("%s: %v", indexName(e.pack.number), e.cause) }

func (e *indexError) Unwrap() error { return e.cause }

// findIn looks for k in p alone. The caller holds mu.
func findIn(p *pack, k key) (entry, bool, error) {
	e, ok, err := p.index.find(k)
	if err != nil {
		err = &indexError{p, p.index.sealed, err}
	}
	return e, ok, err
}

// mend returns nil if err came of an index file and the pack has another index now, so
// that what failed can be tried again; otherwise err, or why there is none. The caller
// holds none of the store's locks but appendMu.
func (s *Store) mend(err error) error {
	broken, ok := errors.AsType[*indexError](err)
	if !ok {
		return err
	}
	return s.reindex(broken)
}

// reindex builds the index of a pack anew, from the pack, as a start does that finds no
// index. Look-ups in other packs go on meanwhile; those that need this one wait.
func (s *Store) reindex(broken *indexError) error {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	p := broken.pack
	s.mu.RLock()
	closed := s.closed
	current := p.index.sealed == broken.broken && slices.Contains(s.packs, p)
	s.mu.RUnlock()
	switch {
	case closed:
		return ErrClosed
	case !current:
		return nil // the pack has gone, or somebody was faster
	}
	if _, err := p.file.ReadAt(make([]byte, packHeader), 0); err != nil {
		// Nothing at all can be read, so what is there is not known: that is no time to
		// take blocks for lost.
		return fmt.Errorf("%w, and %s to rebuild it from: %w", broken, packName(p.number), err)
	}
	s.log.Error("an index cannot be read, it is rebuilt from its pack", "index", indexName(p.number), "err", broken.cause)
	fresh := &pack{number: p.number, id: p.id, file: p.file}
	damage := fresh.replay(p.size, s.isSound)
	// A pack that leaves the store does so under indexMu, so its file was open.
	s.mu.Lock()
	closed = s.closed
	if closed {
		s.mu.Unlock()
		return ErrClosed
	}
	if damage > 0 || fresh.unreadable || fresh.size < p.size {
		s.log.Warn("pack is damaged", "pack", packName(p.number), "places", damage, "read_errors", fresh.unreadable)
		p.unreadable = p.unreadable || fresh.unreadable
		s.suspectLocked(p)
	}
	again := p.reindexed
	p.reindexed = true
	p.index = fresh.index
	err := broken.broken.file.Close()
	s.mu.Unlock()
	if err != nil {
		s.log.Debug("cannot close an index", "index", indexName(p.number), "err", err)
	}
	// One that broke twice stays in memory, or a disk that loses what it takes would
	// be written to without end. So does that of a pack that has more to it than could
	// be read: the next start is to see that.
	if again || fresh.unreadable {
		return nil
	}
	sealed := *fresh // readers have the live index meanwhile
	sealed.size = p.size
	if err := sealed.writeIndex(s.dir); err != nil {
		s.logNoIndex(p, err)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.Join(ErrClosed, sealed.index.close())
	}
	p.index = sealed.index
	return nil
}
