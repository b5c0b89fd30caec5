package exchange

import (
	"slices"
	"sort"
	"sync"

	"github.com/ipfs/go-cid"
)

// maxQueued is how many spans, and CIDs, a peer may have asked for and not been answered, and
// maxQueuedCIDs how many bytes the latter may have: as many with SHA2-256 fit.
const (
	maxQueued     = 4 * maxSpans
	maxQueuedCIDs = 40 * maxQueued
)

// maxOpens is how often a stream may open: once, and again when the base is known.
const maxOpens = 4

// asked is what a peer asked for over a stream and was not answered. What is being answered
// stays until it was, so that it can be called off. Its methods may be called from two
// goroutines: one adds, one takes.
type asked struct {
	mu     sync.Mutex
	opens  []open
	opened int // OPEN that came
	lists  []list
	wants  []span
	gets   []cid.Cid
	bytes  int // of gets
	got    int // DATA that arrived, as the peer says
}

// add queues what a frame asks for. Of one that breaks the protocol nothing is kept: the stream
// ends, and it might be answered before.
func (a *asked) add(t frameType, body []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch t {
	case frameOpen:
		o, err := parseOpen(body)
		if err != nil {
			return err
		}
		if a.opened++; a.opened > maxOpens {
			return violation("too many OPEN")
		}
		a.opens = append(a.opens, o)
	case frameList:
		l, err := parseList(body)
		if err != nil {
			return err
		}
		if len(a.lists) == maxLists {
			return violation("too many LIST")
		}
		a.lists = append(a.lists, l)
	case frameWant:
		spans, err := parseSpanFrame(body)
		if err != nil {
			return err
		}
		if len(a.wants)+len(spans) > maxQueued {
			return violation("too many WANT")
		}
		a.wants = append(a.wants, spans...)
	case frameCancel:
		spans, err := parseSpanFrame(body)
		if err != nil {
			return err
		}
		a.wants, err = without(a.wants, spans)
		return err
	case frameGet:
		cids, err := parseGet(body)
		if err != nil {
			return err
		}
		n := a.bytes
		for _, c := range cids {
			n += c.ByteLen()
		}
		if len(a.gets)+len(cids) > maxQueued || n > maxQueuedCIDs {
			return violation("too many GET")
		}
		a.gets, a.bytes = append(a.gets, cids...), n
	case frameGot:
		n, err := parseGot(body)
		if err != nil {
			return err
		}
		a.got = max(a.got, n)
	default:
		return violation("unexpected frame of type %d", t)
	}
	return nil
}

// without returns what is left of spans, which are in any order and are overwritten, without those
// of gone, which are ascending. It fails if that is too much: a few of each can make millions. To
// call off what was not asked for, over and over, costs a look at each span and no memory.
func without(spans, gone []span) ([]span, error) {
	whole := span{gone[0].first, gone[len(gone)-1].end() - gone[0].first}
	kept := slices.IndexFunc(spans, func(s span) bool { return s.cut(whole).n > 0 })
	if kept < 0 {
		return spans, nil
	}
	buffer := spanBuffers.Get().(*[]span)
	defer spanBuffers.Put(buffer)
	left := (*buffer)[:0]
	for _, s := range spans[kept:] {
		i := sort.Search(len(gone), func(i int) bool { return gone[i].end() > s.first })
		for ; i < len(gone) && gone[i].first < s.end(); i++ {
			cut := s.cut(gone[i])
			if cut.first > s.first {
				left = append(left, span{s.first, cut.first - s.first})
			}
			s = span{cut.end(), s.end() - cut.end()}
		}
		if s.n > 0 {
			left = append(left, s)
		}
		if kept+len(left) > maxQueued {
			return nil, violation("too many WANT")
		}
	}
	*buffer = left
	return append(spans[:kept], left...), nil
}

// spanBuffers are of *[]span, in which without gathers them.
var spanBuffers = sync.Pool{New: func() any { return new([]span) }}

// arrived returns how many DATA the peer says have.
func (a *asked) arrived() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got
}

// open takes the next OPEN.
func (a *asked) open() (o open, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.opens) == 0 {
		return o, false
	}
	o, a.opens = a.opens[0], a.opens[1:]
	return o, true
}

// early says whether a LIST or WANT is next, and no OPEN.
func (a *asked) early() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.opens) == 0 && (len(a.lists) > 0 || len(a.wants) > 0)
}

// list takes the next LIST.
func (a *asked) list() (l list, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.lists) == 0 {
		return l, false
	}
	l, a.lists = a.lists[0], a.lists[1:]
	return l, true
}

// cids returns those of blocks that are next, as many as a GET may have.
func (a *asked) cids() []cid.Cid {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.gets), maxGets)
	return a.gets[:n:n]
}

// answered takes the next n CIDs.
func (a *asked) answered(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.gets[:n] {
		a.bytes -= c.ByteLen()
	}
	a.gets = a.gets[n:]
}

// wanted says whether leaves are asked for.
func (a *asked) wanted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.wants) > 0
}

// leaves returns those that are next, none if there are none. What of them is in sent is
// left out, and not again.
func (a *asked) leaves(sent *leafSet) span {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.wants) > 0 {
		want := a.wants[0]
		if sent.n == 0 {
			return want
		}
		part := want
		part.n = min(part.n, maxPieces) // no more are answered at a time
		left := sent.spans(nil, part, false)
		if len(left) == 1 && left[0] == part {
			return want
		}
		sent.removeSpan(part)
		if rest := want.from(part.end()); rest.n > 0 {
			left = append(left, rest)
		}
		a.wants = append(left, a.wants[1:]...)
	}
	return span{}
}

// took takes leaves with which those that are next begin, unless they were called off meanwhile.
func (a *asked) took(s span) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.wants) > 0 && s.first <= a.wants[0].first && a.wants[0].first < s.end() {
		s = s.from(min(s.end(), a.wants[0].end()))
		if a.wants[0] = a.wants[0].from(s.first); a.wants[0].n == 0 {
			a.wants = a.wants[1:]
		}
	}
}

// within takes the leaves that are next, as far as they are in s and ascend: up to n runs.
func (a *asked) within(s span, n int) (spans []span) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.wants) > 0 && len(spans) < n {
		next := a.wants[0]
		if next.first < s.first || next.end() > s.end() {
			break
		}
		spans = append(spans, next)
		s = s.from(next.end())
		a.wants = a.wants[1:]
	}
	return spans
}
