package blockstore

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"time"
)

const (
	scrubFile = "scrub.json"
	// scrubRate is how many bytes per second a scrub reads, unless it needs more to
	// be in time: little for a disk that serves readers beside it.
	scrubRate = 4 << 20
	// scrubPoll is how long a scrub waits at most before it looks again which pack is
	// due, so that a clock that was set does not stop it.
	scrubPoll = time.Hour
	// maxScrubFile bounds what is read of scrubFile: millions of packs.
	maxScrubFile = 64 << 20
)

// scrubState is the scrubFile. Losing it costs time: the packs count as just written.
type scrubState struct {
	Packs map[uint32]time.Time `json:"packs"` // number to when it was last read, or first seen
}

// Scrub reads every pack about once in two thirds of period, from the disk rather
// than the page cache, and holds each block against its hash, until ctx ends or the
// store is closed. What it finds makes Damaged yield. It reads slowly: a pack at
// scrubRate, or as fast as it takes to read all in a sixth of period.
func (s *Store) Scrub(ctx context.Context, period time.Duration) error {
	state := s.loadScrub()
	for {
		p, due, changed := s.nextScrub(state, time.Now(), period)
		if changed {
			s.saveScrub(state)
		}
		if wait := min(time.Until(due), scrubPoll); wait > 0 {
			if err := sleep(ctx, wait); err != nil {
				return err
			}
			continue
		}
		if err := s.scrubPack(ctx, p, period); err != nil {
			return err
		}
		state.Packs[p.number] = time.Now()
		s.saveScrub(state)
	}
}

// nextScrub returns the sealed pack that is due first, and when. Without one there is
// nothing to do for a while. It brings state up to date with the packs that there are,
// and says whether that changed it.
func (s *Store) nextScrub(state scrubState, now time.Time, period time.Duration) (next *pack, due time.Time, changed bool) {
	due = now.Add(scrubPoll)
	s.mu.RLock()
	defer s.mu.RUnlock()
	known := make(map[uint32]time.Time, len(s.packs))
	for _, p := range s.packs {
		last, ok := state.Packs[p.number]
		if !ok || last.After(now) { // new, or the clock was set back
			last, changed = now, true
		}
		known[p.number] = last
		if at := last.Add(period * 2 / 3); p != s.active && at.Before(due) {
			next, due = p, at
		}
	}
	changed = changed || len(known) < len(state.Packs)
	clear(state.Packs)
	maps.Copy(state.Packs, known)
	return next, due, changed
}

// scrubPack reads p, and makes it a suspect if it is damaged.
func (s *Store) scrubPack(ctx context.Context, p *pack, period time.Duration) error {
	rate := max(scrubRate, float64(s.Stats().DiskBytes)/(period.Seconds()/6))
	// What the page cache has says nothing about the disk, and readers gain nothing
	// by what a scrub brings in.
	uncache := func() {
		if err := s.uncache(p); err != nil && !errors.Is(err, fs.ErrClosed) {
			s.log.Debug("cannot bypass the page cache", "pack", packName(p.number), "err", err)
		}
	}
	uncache()
	defer uncache()
	unpaced := 0 // bytes
	return s.inspect(p, true, func(n int) error {
		if unpaced += n; unpaced < 1<<20 {
			return ctx.Err()
		}
		pause := time.Duration(float64(unpaced) / rate * float64(time.Second))
		unpaced = 0
		return sleep(ctx, pause)
	}, func(_ key, err error) {
		s.log.Error("a scrub found damage", "err", err)
		s.suspect(p)
	})
}

// uncache has p and its index read from the disk when they are read next.
func (s *Store) uncache(p *pack) error {
	s.mu.RLock() // under which no index is closed
	defer s.mu.RUnlock()
	err := p.file.Uncache()
	if x := p.index.sealed; err == nil && x != nil {
		err = x.file.Uncache()
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (s *Store) loadScrub() scrubState {
	state := scrubState{Packs: make(map[uint32]time.Time)}
	f, err := s.dir.Open(scrubFile)
	if err != nil {
		return state
	}
	defer f.Close()
	err = json.NewDecoder(io.NewSectionReader(f, 0, maxScrubFile)).Decode(&state)
	if err != nil || state.Packs == nil {
		s.log.Debug("scrub state is unreadable", "err", err)
		state.Packs = make(map[uint32]time.Time)
	}
	return state
}

// saveScrub writes the scrubFile. It is not synced: what a crash loses is read again.
func (s *Store) saveScrub(state scrubState) {
	data, err := json.Marshal(state)
	if err == nil {
		err = replaceFile(s.dir, scrubFile, data, false)
	}
	if err != nil {
		s.log.Debug("cannot note what was scrubbed", "err", err)
	}
}
