package blockstore

import (
	"errors"
	"fmt"

	"github.com/dustin/go-humanize"
)

// ErrQuota reports a write that was refused because it would take more of the disk
// than the store was given.
var ErrQuota = errors.New("quota exceeded")

// gcReserve is the part of the quota, one in so many, that only a collection or a
// repair may use: they copy blocks before they remove them. Of MinFree they may use half.
const gcReserve = 16

// Limits bounds what the store takes of a disk. It is checked before each write.
type Limits struct {
	Bytes   int64 // most that packs and indexes together may take; 0 is no limit
	MinFree int64 // least that is to stay free on the file system
}

// SetLimits sets the limits, from the next write on.
func (s *Store) SetLimits(l Limits) {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	s.limits = l
}

// allow refuses n more bytes with ErrQuota if they would go beyond the limits. The
// caller holds appendMu.
func (s *Store) allow(n int64, collecting bool) error {
	if limit := s.limits.Bytes; limit > 0 {
		if !collecting {
			limit -= min(limit/gcReserve, s.maxPackSize)
		}
		if used := s.Stats().DiskBytes; used+n > limit {
			return fmt.Errorf("%w: %s of %s are used", ErrQuota, humanize.Bytes(uint64(used)), humanize.Bytes(uint64(s.limits.Bytes)))
		}
	}
	if least := s.limits.MinFree; least > 0 {
		if collecting {
			least /= 2 // for as long as it takes to free more
		}
		free, err := s.dir.Free()
		if err != nil {
			return fmt.Errorf("free space: %w", err)
		}
		if free-n < least {
			return fmt.Errorf("%w: %s are free on the disk, and %s are to stay free", ErrQuota, humanize.Bytes(uint64(max(free, 0))), humanize.Bytes(uint64(s.limits.MinFree)))
		}
	}
	return nil
}
