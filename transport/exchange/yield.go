package exchange

import "time"

// What of a stream waits, so that others get their part of the line.

// leavePlace gives back the place in the upload if nothing was sent.
func (c *serving) leavePlace() {
	if c.place != nil {
		c.server.crowds.arrived(c.place, false)
		c.place = nil
	}
}

// sent notes in the history that leaves are sent, in so many bytes.
func (c *serving) sent(s span, bytes int) {
	if c.history.hadLeaves(c.order, s.first) {
		c.again(bytes)
	}
	c.history.sentLeaves(c.order, s)
}

// wantsMore says whether the next that is asked for is more of the segment that was sent last,
// rather than the same again.
func (c *serving) wantsMore(segment int) bool {
	next := c.asked.leaves(&c.sentEager)
	return next.n > 0 && c.rest <= next.first && next.first < c.order.segmentSpan(segment).end()
}

// waitFor has the stream look again after a while, unless it will sooner.
func (c *serving) waitFor(d time.Duration) {
	if c.pause == 0 || d < c.pause {
		c.pause = d
	}
}

// holdBack says whether what is asked for has to wait, since the peer had it and others are
// served.
func (c *serving) holdBack(had bool) bool {
	if !had || c.server.alone(c.remote) {
		return false
	}
	wait := c.history.wait()
	if wait > 0 {
		c.waitFor(wait)
	}
	return wait > 0
}

// again counts that so many bytes are sent to a peer that had them, if others are served.
func (c *serving) again(bytes int) {
	if !c.server.alone(c.remote) {
		c.history.again(bytes)
	}
}

// noSegment stands for none.
const noSegment = -1

// claim says whether the peer is to get a segment now, rather than from another or later,
// and counts it as on its way then. What is left of it after an answer is not put off.
func (c *serving) claim(segment int) bool {
	r, again := c.refused[segment]
	insists := again && time.Since(r.first) > maxRefusal || !again && len(c.refused) >= maxQueued
	if !c.swarm.claim(segment, c.order, c.remote, insists, c.server.crowds.spare(c.member)) {
		return false
	}
	c.claimed, c.rest = segment, noSegment
	return true
}

// refusal is when the peer was told first and last to ask later.
type refusal struct{ first, last time.Time }

// refuse returns how long the peer has to wait until it can be told to ask later for a segment:
// not at all, unless it did not wait when it was told last.
func (c *serving) refuse(segment int) time.Duration {
	now := time.Now()
	r, again := c.refused[segment]
	if wait := putOffTime/2 - now.Sub(r.last); again && wait > 0 {
		return wait
	}
	if !again {
		r.first = now
	}
	r.last = now
	c.refused[segment] = r
	return 0
}

// unclaim gives up the claim of a segment that is not, or not all, sent.
func (c *serving) unclaim() {
	if c.claimed >= 0 {
		c.swarm.arrived(c.claimed)
		c.claimed = noSegment
	}
}

// maxRefusal is after how long a peer gets what it asks for though others could have had it
// meanwhile.
const maxRefusal = 3 * passTime / 2

// send is an answer with leaves.
type send struct {
	number int
	*onItsWay
}

// sending counts that leaves, the last that were claimed of a segment unless it is noSegment,
// are sent in so many bytes, for as long as they are on their way.
func (c *serving) sending(segment, bytes int) {
	c.sends++
	if !c.swarm.crowded(c.remote) {
		bytes = 0
	}
	arrived := func() {
		if segment != noSegment {
			c.swarm.arrived(segment)
		}
	}
	c.unproven = append(c.unproven, send{c.sends, c.server.crowds.sent(c.member, c.place, bytes, arrived)})
	c.place = nil
	if len(c.unproven) > maxUnproven || time.Since(c.unproven[0].at) > maxProof {
		c.arrived(c.unproven[0].number, false) // whatever became of it
	}
}

// At most so many answers to a peer count as on their way, and for so long.
const (
	maxUnproven = 64
	maxProof    = 10 * time.Second
)

// arrived counts that answers up to a number have arrived; reported says that the peer said
// so.
func (c *serving) arrived(number int, reported bool) {
	n := 0
	for n < len(c.unproven) && c.unproven[n].number <= number {
		c.server.crowds.arrived(c.unproven[n].onItsWay, reported)
		n++
	}
	c.unproven = c.unproven[n:]
}
