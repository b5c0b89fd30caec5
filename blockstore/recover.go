package blockstore

import (
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"
)

// load opens the packs that there are.
func (s *Store) load() error {
	names, err := s.dir.List()
	if err != nil {
		return err
	}
	var numbers []uint32
	for _, name := range names {
		if n, ok := parsePackName(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		s.lastNumber = n
		p, damage, err := openPack(s.dir, n, s.isSound)
		if err != nil {
			return fmt.Errorf("open pack: %w", err)
		}
		s.packs = append(s.packs, p)
		if damage > 0 {
			s.log.Warn("pack has damaged records", "pack", packName(n), "places", damage)
		}
	}
	// Only now that every pack is known to be ours is anything written.
	for i, p := range slices.Clone(s.packs) {
		if err := s.recover(p, i == len(numbers)-1); err != nil {
			return fmt.Errorf("recover %s: %w", packName(p.number), err)
		}
	}
	return nil
}

// recover readies a pack that had no usable index: the last one to be written
// on, the others with an index of their own.
func (s *Store) recover(p *pack, last bool) error {
	switch {
	case p.index.sealed != nil:
		return nil
	case p.id == packID{}:
		return s.recoverHeadless(p)
	}
	// What was replayed is on the disk; this is for what is cut off.
	if err := p.finish(); err != nil {
		return err
	}
	if last && !s.full(p) {
		s.active = p
		return nil
	}
	if err := p.writeIndex(s.dir); err != nil {
		// The pack is replayed at the next start too. That is better than not to
		// start, on a full disk for instance.
		s.log.Error("cannot write an index, it stays in memory", "pack", packName(p.number), "err", err)
	}
	return nil
}

// isSound says whether a record's bytes match its multihash.
func (s *Store) isSound(record []byte) bool {
	h, err := parseHeader(record)
	if err != nil {
		return false
	}
	data, err := s.decodeRecord(record)
	if err != nil {
		return false
	}
	_, err = NewBlock(cid.NewCidV1(cid.Raw, h.mh), data)
	return err == nil
}
