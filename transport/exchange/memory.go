package exchange

import (
	"cmp"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// answerMemory is how many bytes the answers of all streams may take. It is less than the
// resource manager allows them: those of streams that were ended for it are in memory for a
// moment yet.
const answerMemory = 128 << 20

var errMemory = errors.New("no memory for an answer")

// book reserves what an answer takes, as the most that any took since nothing was booked.
func (c *serving) book(n int) error {
	more := n - c.booked
	if more <= 0 {
		return nil
	}
	// First, or a peer that is not to have more would take it from others.
	if err := c.memory.ReserveMemory(more, network.ReservationPriorityMedium); err != nil {
		return err
	}
	if c.booked == 0 {
		c.took()
	}
	if !c.server.book(c, more) {
		c.memory.ReleaseMemory(more)
		return errMemory
	}
	return nil
}

// release gives back what is booked, when no answer is in memory.
func (c *serving) release() {
	c.memory.ReleaseMemory(c.server.release(c))
}

// took notes that the peer took all of an answer, or that there was none before.
func (c *serving) took() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = time.Now()
}

// takes returns for how long the peer has been taking an answer.
func (c *serving) takes() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.taken)
}

// book counts more bytes for answers to c, and says whether they may be. If they are more than
// are left it ends others' streams.
func (s *Server) book(c *serving, more int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.streams[c]; ok {
		for s.booked+more > answerMemory {
			if !s.freeMemory(c, more) {
				return false
			}
		}
		s.booked += more
	}
	c.booked += more
	return true
}

// freeMemory ends a stream, if one may be ended so that answers to c take more bytes: of the peer
// that holds most, the one over which an answer has been on its way longest. Only peers count that
// hold more than that of c would then, or who asks much would end the streams of who is slow; if
// that one holds nothing over its other streams, so does any stream that is slow enough, or many
// peers with little each would keep all. The caller holds mu.
func (s *Server) freeMemory(c *serving, more int) bool {
	held := make(map[peer.ID]int)
	for o := range s.streams {
		held[o.remote] += o.booked
	}
	alone := held[c.remote] == c.booked
	var slowest *serving
	var longest time.Duration
	for o := range s.streams {
		d := o.takes()
		if o.booked == 0 || o.remote == c.remote ||
			held[o.remote] <= held[c.remote]+more && !(alone && d >= uploadIdle) {
			continue
		}
		if slowest == nil ||
			cmp.Or(cmp.Compare(held[o.remote], held[slowest.remote]), cmp.Compare(d, longest)) > 0 {
			slowest, longest = o, d
		}
	}
	if slowest == nil {
		return false
	}
	s.end(slowest)
	return true
}

// release counts nothing for c any more, and returns what was.
func (s *Server) release(c *serving) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := c.booked
	c.booked = 0
	if _, ok := s.streams[c]; ok {
		s.booked -= n
	}
	return n
}
