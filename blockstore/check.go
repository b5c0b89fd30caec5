package blockstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// CheckResult tells what a check looked at.
type CheckResult struct {
	Packs, Blocks int
	Bytes         int64 // read from packs
}

// CheckProgress tells how far a check or repair has come, in bytes of packs.
type CheckProgress struct{ Bytes, TotalBytes int64 }

// Check looks at every pack and writes nothing, but for an index that cannot be read any
// more (see Store.reindex). It checks that each index entry
// leads to the head of the right record; with data, that each record holds the bytes
// that its multihash stands for. damage is called for each thing that is wrong, from
// one goroutine. An error means that the check could not be completed.
func (s *Store) Check(ctx context.Context, data bool, damage func(error), progress func(CheckProgress)) (CheckResult, error) {
	packs := s.allPacks()
	var res CheckResult
	err := s.eachPack(ctx, packs, progress, func(p *pack) error {
		res.Packs++
		return s.inspect(p, data, res.counting(ctx), func(_ key, err error) { damage(err) })
	})
	return res, err
}

// counting returns a function that adds a record to r, for inspect.
func (r *CheckResult) counting(ctx context.Context) func(n int) error {
	return func(n int) error {
		r.Blocks++
		r.Bytes += int64(n)
		return ctx.Err()
	}
}

func (s *Store) allPacks() []*pack {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.packs)
}

// eachPack calls do for each pack, and progress, which may be nil, before that.
func (s *Store) eachPack(ctx context.Context, packs []*pack, progress func(CheckProgress), do func(*pack) error) error {
	var done CheckProgress
	sizes := make([]int64, len(packs))
	s.mu.RLock()
	for i, p := range packs {
		sizes[i] = p.size
		done.TotalBytes += p.size
	}
	s.mu.RUnlock()
	for i, p := range packs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if progress != nil {
			progress(done)
		}
		if err := do(p); err != nil {
			return fmt.Errorf("%s: %w", packName(p.number), err)
		}
		done.Bytes += sizes[i]
	}
	if progress != nil {
		progress(done)
	}
	return nil
}

// located is an index entry and its key.
type located struct {
	key
	entry
}

// inspect holds the head of p and its records, in the order in which they lie,
// against its index; with data it reads all of them and hashes the blocks. It calls
// count with the bytes read of each record, and ends with the error that count returns.
// It calls bad for each block that is not as it should be, and with a zero key for a
// damaged head. A pack that has been removed meanwhile is as it should be.
func (s *Store) inspect(p *pack, data bool, count func(n int) error, bad func(key, error)) error {
	entries, err := s.entriesOf(p)
	if err != nil {
		return err
	}
	report := func(k key, offset uint32, err error) {
		bad(k, fmt.Errorf("%s at %d: %w", packName(p.number), offset, err))
	}
	switch err := p.checkHead(); {
	case errors.Is(err, fs.ErrClosed):
		return nil
	case err != nil:
		report(key{}, 0, err)
	}
	var buf []byte
	for _, l := range entries {
		n := int(l.size)
		if !data {
			n = min(n, recordHeader+maxHashLength)
		}
		buf = slices.Grow(buf[:0], n)[:n]
		_, err := p.file.ReadAt(buf, int64(l.offset))
		if errors.Is(err, fs.ErrClosed) {
			return nil
		}
		if err := count(n); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("the pack ends within the record")
		}
		if err == nil {
			err = s.checkRecord(buf, l, data)
		}
		if err != nil {
			report(l.key, l.offset, err)
		}
	}
	return nil
}

// entriesOf returns the index of p by offset, or nothing if p has been removed.
func (s *Store) entriesOf(p *pack) ([]located, error) {
	for {
		entries, err := s.readIndex(p)
		if err == nil {
			return sortByOffset(entries), nil
		}
		if err := s.mend(err); err != nil {
			return nil, err
		}
	}
}

func (s *Store) readIndex(p *pack) ([]located, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	if !slices.Contains(s.packs, p) {
		return nil, nil
	}
	entries := make([]located, 0, p.index.count)
	for l, err := range p.index.all() {
		if err != nil {
			return nil, &indexError{p, p.index.sealed, err}
		}
		entries = append(entries, l)
	}
	return entries, nil
}

// checkHead says what is wrong with the head of p's file.
func (p *pack) checkHead() error {
	head := make([]byte, packHeader)
	if _, err := p.file.ReadAt(head, 0); err != nil {
		return err
	}
	if string(head[:8]) != packMagic || packHeadCRC(head) != binary.LittleEndian.Uint32(head[12:]) || packID(head[16:]) != p.id {
		return errors.New("damaged head")
	}
	return nil
}

// checkRecord says what is wrong with the record that b starts with, and with data
// is all of.
func (s *Store) checkRecord(b []byte, want located, data bool) error {
	h, err := parseHeader(b)
	switch {
	case err != nil:
		return err
	case keyOf(h.mh) != want.key || h.size() != int(want.size) || h.raw != want.raw:
		return errors.New("another record than the index says")
	case data && !s.isSound(b):
		return ErrMismatch
	}
	return nil
}
