package blockstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// CheckResult tells what a check looked at.
type CheckResult struct {
	Packs, Blocks int
	Bytes         int64 // read from packs
}

// CheckProgress tells how far a check has come, in bytes of packs.
type CheckProgress struct{ Bytes, TotalBytes int64 }

// Check looks at every pack and writes nothing. It checks that each index entry
// leads to the head of the right record; with data, that each record holds the bytes
// that its multihash stands for. damage is called for each thing that is wrong, from
// one goroutine. An error means that the check could not be completed.
func (s *Store) Check(ctx context.Context, data bool, damage func(error), progress func(CheckProgress)) (CheckResult, error) {
	s.mu.RLock()
	packs := slices.Clone(s.packs)
	var done CheckProgress
	for _, p := range packs {
		done.TotalBytes += p.size
	}
	s.mu.RUnlock()
	var res CheckResult
	for _, p := range packs {
		if progress != nil {
			progress(done)
		}
		if err := s.checkPack(ctx, p, data, damage, &res); err != nil {
			return res, fmt.Errorf("check %s: %w", packName(p.number), err)
		}
		done.Bytes += p.size
		res.Packs++
	}
	return res, nil
}

func (s *Store) checkPack(ctx context.Context, p *pack, data bool, damage func(error), res *CheckResult) error {
	entries := make(map[key]entry)
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return ErrClosed
	}
	if !slices.Contains(s.packs, p) {
		s.mu.RUnlock()
		return nil // collected meanwhile
	}
	for k, e := range p.index.all() {
		entries[k] = e
	}
	s.mu.RUnlock()
	report := func(e entry, err error) {
		damage(fmt.Errorf("%s at %d: %w", packName(p.number), e.offset, err))
	}
	var buf []byte
	for k, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int(e.size)
		if !data {
			n = min(n, recordHeader+maxHashLength)
		}
		buf = slices.Grow(buf[:0], n)[:n]
		if _, err := p.file.ReadAt(buf, int64(e.offset)); errors.Is(err, io.EOF) {
			report(e, errors.New("the pack ends within the record"))
			continue
		} else if err != nil {
			return err
		}
		res.Blocks++
		res.Bytes += int64(n)
		h, err := parseHeader(buf)
		switch {
		case err != nil:
			report(e, err)
		case keyOf(h.mh) != k || h.size() != int(e.size) || h.raw != e.raw:
			report(e, errors.New("another record than the index says"))
		case data && !s.isSound(buf):
			report(e, ErrMismatch)
		}
	}
	return nil
}
