package blockstore

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
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
		} else if n, ok := parseName(name, badSuffix); ok {
			s.lastNumber = max(s.lastNumber, n) // not to be used again
			if s.quarantined[n], err = fileSize(s.dir, name); err != nil {
				s.log.Warn("a pack in quarantine cannot be opened", "pack", name, "err", err)
			}
		}
	}
	slices.Sort(numbers)
	if err := s.openPacks(numbers); err != nil {
		return err
	}
	// Only now that every pack is known to be ours is anything written.
	for i, p := range slices.Clone(s.packs) {
		if err := s.recover(p, i == len(numbers)-1); err != nil {
			return fmt.Errorf("recover %s: %w", packName(p.number), err)
		}
	}
	s.removeOrphans(names)
	return nil
}

// openers is how many packs are opened, and if need be replayed, at once. Each takes
// some 30 MB then.
const openers = 4

// openPacks opens the packs with the given numbers, which are in order.
func (s *Store) openPacks(numbers []uint32) error {
	s.packs = make([]*pack, len(numbers))
	damage := make([]int, len(numbers))
	var g errgroup.Group
	g.SetLimit(openers)
	for i, n := range numbers {
		g.Go(func() (err error) {
			s.packs[i], damage[i], err = openPack(s.dir, n, s.isSound)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		s.packs = slices.DeleteFunc(s.packs, func(p *pack) bool { return p == nil })
		return fmt.Errorf("open pack: %w", err)
	}
	for i, p := range s.packs {
		s.lastNumber = max(s.lastNumber, p.number)
		if damage[i] > 0 || p.unreadable {
			s.log.Warn("pack is damaged", "pack", packName(p.number), "places", damage[i], "read_errors", p.unreadable)
			s.suspectLocked(p)
		}
	}
	return nil
}

func fileSize(dir FS, name string) (int64, error) {
	f, err := dir.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Size()
}

// recover readies a pack that had no usable index: the last one to be written
// on, the others with an index of their own.
func (s *Store) recover(p *pack, last bool) error {
	if p.index.sealed != nil || p.unreadable {
		return nil // what could not be read may be sound: nothing is cut off
	}
	size, err := p.file.Size()
	switch {
	case err != nil:
		return err
	case size <= packHeader:
		s.removeEmpty(p)
		return nil
	case p.id == packID{}:
		// It is read at each start, since there is nothing to tie an index to, until it
		// is repaired.
		return nil
	}
	// What was replayed is on the disk; this is for what is cut off.
	if err := p.finish(); err != nil {
		// A read-only file system, for one. What there is can be read.
		s.fail(fmt.Errorf("recover %s: %w", packName(p.number), err))
		if last {
			s.active = p
		}
		return nil
	}
	if last && !s.full(p) {
		s.active = p
		return nil
	}
	if err := p.writeIndex(s.dir); err != nil {
		// The pack is replayed at the next start too. That is better than not to
		// start, on a full disk for instance.
		s.logNoIndex(p, err)
	}
	return nil
}

// removeEmpty removes what a crash left of the making of a pack. Whether its name is
// durable cannot be known; that of a pack with records was, before they were written.
func (s *Store) removeEmpty(p *pack) {
	s.packs = slices.DeleteFunc(s.packs, func(other *pack) bool { return other == p })
	delete(s.suspects, p.number)
	if err := errors.Join(p.file.Close(), s.dir.Remove(packName(p.number)), s.dir.Sync()); err != nil {
		s.fail(fmt.Errorf("recover %s: %w", packName(p.number), err))
	}
}

// removeOrphans removes indexes without a pack. A collection that was cut off may
// leave them, and so does the loss of a pack.
func (s *Store) removeOrphans(names []string) {
	var err error
	removed := false
	for _, name := range names {
		number, ok := parseName(strings.TrimSuffix(name, tempSuffix), indexSuffix)
		if !ok || slices.Contains(names, packName(number)) {
			continue
		}
		if !strings.HasSuffix(name, tempSuffix) {
			s.log.Warn("an index has no pack; blocks may be missing", "index", name)
			s.signalDamage()
		}
		removed = true
		err = errors.Join(err, s.dir.Remove(name))
	}
	if removed {
		err = errors.Join(err, s.dir.Sync())
	}
	if err != nil {
		s.log.Warn("cannot remove indexes without packs", "err", err) // they only take space
	}
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

// readDamaged fills b from f at off, up to the end of the file. What the disk cannot
// read is left zero, in pieces of 4 KiB. It returns how many bytes there are, and
// whether all could be read.
func readDamaged(f io.ReaderAt, b []byte, off int64) (n int, readable bool) {
	n, err := f.ReadAt(b, off)
	if err == nil || errors.Is(err, io.EOF) {
		return n, true
	}
	const piece = 4 << 10
	for n = 0; n < len(b); {
		end := n + piece - int(off+int64(n))%piece // or a bad page would take parts of two with it
		part := b[n:min(end, len(b))]
		got, err := f.ReadAt(part, off+int64(n))
		if errors.Is(err, io.EOF) {
			return n + got, false
		}
		if err != nil {
			clear(part[got:])
		}
		n += len(part)
	}
	return n, false
}
