package dag

import (
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// Step is a block that a Cursor has come to.
type Step struct {
	CID cid.Cid
	// Base is what stands in its place in an earlier version: the block under the same
	// name, or for links without names, such as those of a file, at the same position.
	// It is undefined if there is none. If it is CID itself, everything below is the same
	// too.
	Base cid.Cid
	// Size is what the link that led here says of the block and all below it; a claim.
	Size uint64
}

// Leaf says whether the block is raw, and so without links.
func (s Step) Leaf() bool { return s.CID.Type() == cid.Raw }

// Same says whether the earlier version has the block, and all below it, in the same
// place.
func (s Step) Same() bool { return s.CID.Equals(s.Base) }

// Cursor goes through the blocks of a DAG in the canonical order: depth-first, a node
// before what it links to, links in the order in which they stand, and each CID only
// where it occurs first. Everybody who goes through the same root sees the same
// sequence, whatever the earlier version is.
//
// It reads nothing itself: after each step to a node the caller enters it with its
// links. Identity CIDs are gone through but are no steps: they carry their own bytes,
// and nobody stores or sends them.
//
// Its memory grows by some 45 bytes for each distinct block, and by the links of the
// nodes on the way down, of which there may be maxPending. It is for one goroutine.
type Cursor struct {
	root         cid.Cid
	seen         blockstore.CIDSet
	stack        []level
	pending      int // links on the stack
	repeated     uint64
	repeatLeaves bool // come to them at each link
	at           Step
}

// level is a node that was entered.
type level struct {
	links []Link
	bases []cid.Cid // of links; nil for none
	next  int
}

// NewCursor returns a Cursor whose first step is root. base, if defined, is the root of
// an earlier version, and size what is claimed of the whole, 0 if unknown.
func NewCursor(root, base cid.Cid, size uint64) *Cursor {
	c := &Cursor{root: root}
	c.stack = append(c.stack, level{links: []Link{{CID: root, Size: size}}, bases: []cid.Cid{base}})
	c.pending = 1
	return c
}

// Next goes to the next block. ok is false at the end. An error is the DAG's fault, and
// wraps ErrMalformed, ErrCodec or ErrTooLarge.
func (c *Cursor) Next() (step Step, ok bool, err error) {
	for len(c.stack) > 0 {
		top := &c.stack[len(c.stack)-1]
		if top.next == len(top.links) {
			c.pending -= len(top.links)
			*top = level{}
			c.stack = c.stack[:len(c.stack)-1]
			continue
		}
		l := top.links[top.next]
		step = Step{CID: l.CID, Size: l.Size}
		if top.bases != nil {
			step.Base = top.bases[top.next]
		}
		top.next++
		if !(c.repeatLeaves && step.Leaf()) && !c.seen.Add(l.CID) {
			if c.repeated += l.Size; c.repeated < l.Size {
				c.repeated = 1<<64 - 1
			}
			continue
		}
		if err := blockstore.CheckCID(l.CID); err != nil {
			return Step{}, false, fmt.Errorf("%w: %w", errUnverifiable, err)
		}
		if t := l.CID.Type(); t != cid.Raw && t != cid.DagProtobuf {
			return Step{}, false, codecError(l.CID)
		}
		c.at = step
		if !isIdentity(l.CID) {
			return step, true, nil
		}
		b, err := inlined(l.CID)
		if err != nil {
			return Step{}, false, err
		}
		links, err := Links(b)
		if err != nil {
			return Step{}, false, err
		}
		if err := c.Enter(links, nil); err != nil {
			return Step{}, false, err
		}
	}
	return Step{}, false, nil
}

// Enter makes the links of the node to which Next came last the next steps. old are the
// links of its Base, nil if there is none or it could not be read. The Cursor keeps
// links.
func (c *Cursor) Enter(links, old []Link) error {
	if len(links) == 0 {
		return nil
	}
	// The level of the root's own link does not count.
	if len(c.stack) > MaxDepth {
		return fmt.Errorf("%s: %w: more than %d links deep", c.root, ErrTooLarge, MaxDepth)
	}
	if c.pending+len(links) > maxPending {
		return fmt.Errorf("%s: %w: more than %d links to follow", c.root, ErrTooLarge, maxPending)
	}
	// Done with, so that a chain of nodes does not count all that was passed on the way.
	if top := &c.stack[len(c.stack)-1]; top.next == len(top.links) {
		c.pending -= len(top.links)
		top.links, top.bases, top.next = nil, nil, 0
	}
	var bases []cid.Cid
	if c.at.Same() {
		bases = make([]cid.Cid, len(links))
		for i, l := range links {
			bases[i] = l.CID
		}
	} else if len(old) > 0 {
		bases = basesOf(links, old)
	}
	c.stack = append(c.stack, level{links: links, bases: bases})
	c.pending += len(links)
	return nil
}

// Repeated returns the sum of the sizes that links to blocks met before claim, or the
// largest number there is. What a tree's links claim of it counts those each time.
func (c *Cursor) Repeated() uint64 { return c.repeated }

// basesOf pairs links with those of an earlier version: by name, and where neither has
// one by position.
func basesOf(links, old []Link) []cid.Cid {
	bases := make([]cid.Cid, len(links))
	// Both are sorted by name as a rule, so the pair is mostly the next in line. Of
	// those that are not, and of names that come twice, anything will do that everybody
	// does alike.
	byName := make(map[string]int, len(old))
	for i, l := range slices.Backward(old) {
		byName[l.Name] = i
	}
	for i, l := range links {
		switch {
		case l.Name != "":
			if j, ok := byName[l.Name]; ok {
				bases[i] = old[j].CID
			}
		case i < len(old) && old[i].Name == "":
			bases[i] = old[i].CID
		}
	}
	return bases
}
