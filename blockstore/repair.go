package blockstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// RepairResult tells what a repair found and did.
type RepairResult struct {
	Checked  CheckResult
	Packs    int // that were damaged, and are in quarantine now
	Lost     int // blocks in them that could not be read back
	Restored int // blocks that could be read back from quarantine after all
}

// Repair takes damaged packs out of use: it copies the blocks that can be read back
// to a new pack, and renames the damaged one, which stays in quarantine until
// DropQuarantine. The blocks that cannot be read back are not held from then on. What
// is in quarantine already is read once more first: a disk or its cable may have got
// better.
//
// It reads the packs in which damage was found before, or with all every one. damage
// is called for each thing that is wrong, from one goroutine; progress may be nil.
// Reading and writing go on beside it. A crash in the middle loses nothing. It fails
// with ErrCollecting if a collection or another repair runs.
func (s *Store) Repair(ctx context.Context, all bool, damage func(error), progress func(CheckProgress)) (res RepairResult, err error) {
	if err := s.beginCollecting(); err != nil {
		return res, err
	}
	defer s.endCollecting()
	packs, err := s.sealAll()
	if err != nil {
		return res, err
	}
	if !all {
		packs = s.suspected(packs)
	}
	if res.Restored, err = s.restoreAll(ctx); err != nil {
		return res, err
	}
	err = s.eachPack(ctx, packs, progress, func(p *pack) error { return s.repairPack(ctx, p, damage, &res) })
	if err == nil && res.Lost > 0 {
		// One pack may have had what another one lost.
		var n int
		n, err = s.restoreAll(ctx)
		res.Restored += n
	}
	return res, err
}

// suspected returns those of packs in which damage was found.
func (s *Store) suspected(packs []*pack) []*pack {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.DeleteFunc(packs, func(p *pack) bool {
		_, suspect := s.suspects[p.number]
		return !suspect
	})
}

// repairPack puts p into quarantine if it is damaged.
func (s *Store) repairPack(ctx context.Context, p *pack, damage func(error), res *RepairResult) error {
	if s.isUnreadable(p) {
		if again, err := s.reopen(p); err != nil {
			damage(err)
		} else {
			p = again
		}
	}
	bad := make(map[key]struct{})
	if err := s.inspect(p, true, res.Checked.counting(ctx), func(k key, err error) {
		bad[k] = struct{}{}
		damage(err)
	}); err != nil {
		return err
	}
	res.Checked.Packs++
	if len(bad) == 0 && !s.isUnreadable(p) {
		return s.clearSuspect(p)
	}
	for {
		sound, lost, err := s.salvage(p, bad)
		if err != nil {
			return err
		}
		err = s.copyRecords(ctx, p, sound)
		if record, ok := errors.AsType[*damagedRecord](err); ok {
			damage(err) // it could be read a moment ago
			bad[record.key] = struct{}{}
			continue
		}
		if err != nil {
			return err
		}
		if err := s.quarantine(p); err != nil {
			return err
		}
		res.Packs++
		res.Lost += lost
		return nil
	}
}

func (s *Store) isUnreadable(p *pack) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return p.unreadable
}

// salvage returns the records of p that are to be copied, by offset: all that are not
// bad and have no newer copy. lost counts the bad ones of which there is no other.
func (s *Store) salvage(p *pack, bad map[key]struct{}) (sound []located, lost int, err error) {
	entries, err := s.entriesOf(p)
	if err != nil {
		return nil, 0, err
	}
	for _, l := range entries {
		_, isBad := bad[l.key]
		newest, _, held, err := s.lookupKey(l.key, nil)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case held && newest != p:
		case isBad:
			lost++
		default:
			sound = append(sound, l)
		}
	}
	return sound, lost, nil
}

// clearSuspect notes that all of p can be read, whatever it was when it was read
// before.
func (s *Store) clearSuspect(p *pack) error {
	entries, err := s.entriesOf(p)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.suspects, p.number)
	for _, l := range entries {
		delete(s.damaged, l.key) // should it be damaged in another pack, reading it tells again
	}
	return nil
}

// quarantine takes p, the sound records of which have been copied, out of use.
func (s *Store) quarantine(p *pack) error {
	entries, err := s.entriesOf(p)
	if err != nil {
		return err
	}
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	// What fails here leaves p in use, to be repaired again.
	if err := s.dir.Rename(packName(p.number), badName(p.number)); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	for _, l := range entries {
		delete(s.damaged, l.key) // what was is not found any more, which is enough
	}
	s.packs = slices.DeleteFunc(s.packs, func(other *pack) bool { return other == p })
	delete(s.suspects, p.number)
	s.quarantined[p.number] = p.size
	err = errors.Join(p.index.close(), p.file.Close())
	s.mu.Unlock()
	return errors.Join(err, s.removeIndex(p.number), s.dir.Sync())
}

// restoreAll takes back from quarantine the blocks that are not held and can be read
// now, and returns how many.
func (s *Store) restoreAll(ctx context.Context) (int, error) {
	restored := 0
	for _, number := range s.Quarantined() {
		n, err := s.restore(ctx, number)
		restored += n
		if err != nil {
			return restored, fmt.Errorf("%s: %w", badName(number), err)
		}
	}
	return restored, nil
}

func (s *Store) restore(ctx context.Context, number uint32) (int, error) {
	f, err := s.dir.Open(badName(number))
	if err != nil {
		s.log.Warn("a pack in quarantine cannot be opened", "pack", badName(number), "err", err)
		return 0, nil // what else is damaged can be repaired
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	p := &pack{number: number, file: f}
	p.replay(size, s.isSound)
	var missing []located
	for k, e := range p.index.live {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		_, _, held, err := s.lookupKey(k, nil)
		if err != nil {
			return 0, err
		}
		if held {
			continue
		}
		record := make([]byte, e.size)
		if _, err := f.ReadAt(record, int64(e.offset)); err == nil && s.isSound(record) {
			missing = append(missing, located{k, e})
		}
	}
	return len(missing), s.copyRecords(ctx, p, sortByOffset(missing))
}

// Quarantined returns the numbers of the packs in quarantine.
func (s *Store) Quarantined() []uint32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.quarantined))
}

// DropQuarantine deletes packs from quarantine. It is for a caller who found, after
// they came there, that nothing which is only there is needed.
func (s *Store) DropQuarantine(numbers []uint32) error {
	if len(numbers) == 0 {
		return nil
	}
	var errs []error
	for _, number := range numbers {
		if err := s.dir.Remove(badName(number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		s.mu.Lock()
		delete(s.quarantined, number)
		s.mu.Unlock()
	}
	return errors.Join(append(errs, s.dir.Sync())...)
}

func badName(number uint32) string { return fmt.Sprintf("%08d%s", number, badSuffix) }
