package exchange

import "time"

const (
	// stallAfter, or four round trips if they take longer, with neither an answer nor
	// stallBytes makes what a session owes available to the others. The session ends when
	// less than minBytes have come in dropAfter while it owes something: the
	// slowest links that people use bring ten times as much.
	stallAfter = time.Second
	stallBytes = 256
	// firstStall is in the place of stallAfter for a session that has brought no leaves
	// yet: there may be many that never will, and each keeps some for so long.
	firstStall = 250 * time.Millisecond
	dropAfter  = 15 * time.Second
	minBytes   = 8 << 10
	// provenFor is how many times as long as others a session that has brought leaves may
	// bring nothing while others wait for its place.
	provenFor = 3
)

// check finds out whether the provider has gone quiet. The caller holds fetch.mu.
func (s *session) check(now time.Time) {
	if s.err != nil {
		return
	}
	if s.useless(now) && s.fetch.crowded {
		s.end(errUseless)
		return
	}
	if s.handing || len(s.owed) == 0 && len(s.lists) == 0 && s.opening == 0 {
		if s.stalled && !s.handing {
			// Others brought what it owed, so no byte will tell that it is back.
			s.end(errStalled)
			return
		}
		if !s.handing && s.putsOffTooLong(now) {
			s.end(errPutsOff) // its place is for others; it is asked again later
			return
		}
		if s.lacks.n > 0 && now.Sub(s.missedAt) > missTime {
			s.lacks = leafSet{} // it may be able to read them now
			s.fetch.changed.Broadcast()
		}
		s.heard(now)
		s.dropStart, s.dropSeen = now, s.seen
		return
	}
	if n := s.received.Load(); n >= s.seen+stallBytes {
		if s.stalled {
			s.fetch.changed.Broadcast()
		}
		s.heard(now)
	}
	if now.Sub(s.dropStart) > dropAfter {
		if s.seen-s.dropSeen < minBytes {
			s.end(errStalled)
			return
		}
		s.dropStart, s.dropSeen = now, s.seen
	}
	patience := s.patience()
	if s.rate() == 0 && len(s.owed) > 0 && s.others < crowd {
		patience = s.firstPatience()
	}
	if !s.stalled && now.Sub(s.lastByte) > patience {
		s.stalled = true
		for _, d := range s.owed {
			s.fetch.fails(s, d.task)
			s.fetch.pool.putLast(d.task) // it may still arrive
		}
		s.fetch.changed.Broadcast()
	}
}

// heard notes that the provider sends what it should. The caller holds fetch.mu.
func (s *session) heard(now time.Time) {
	s.seen, s.lastByte, s.stalled = s.received.Load(), now, false
}

// patience is how long the provider may send nothing while it owes something.
func (s *session) patience() time.Duration {
	patience := max(stallAfter, 4*s.rtt)
	if s.shared() {
		patience *= sharedBy // others are served first
	}
	return patience
}

// firstPatience is the same for a provider that may never have sent anything.
func (s *session) firstPatience() time.Duration { return max(firstStall, 4*s.rtt) }

// useless says whether the provider has brought no block, and fewer bytes than minBytes,
// for so long that another which waits should have its place. Who says that it holds
// nothing of what is missing is useless too, but not who waits for work that there is not.
// One that has brought leaves is given longer, as it may again: in a crowd what it has next
// comes to it from others first. The caller holds fetch.mu.
func (s *session) useless(now time.Time) bool {
	f := s.fetch
	n := s.received.Load()
	idle := s.opened && s.opening == 0 && len(s.owed) == 0 && len(s.lists) == 0 && len(f.pool.queue) == 0
	if s.handing || idle || n-s.usefulAt >= minBytes {
		s.useful, s.usefulAt = now, n
	}
	limit := s.patience() + stallAfter
	if s.rate() > 0 {
		limit *= provenFor
	}
	return now.Sub(s.useful) > limit
}
