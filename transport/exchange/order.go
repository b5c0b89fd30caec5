package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
	"pollux/dag"
)

// An order numbers the blocks of a DAG as they come in the canonical order
// (dag.Cursor): nodes, which lead to others, and leaves, which are raw. Everybody who
// holds the nodes below a root gives the same numbers, so ranges and bits say which
// blocks are meant.
type order struct {
	root, base cid.Cid
	nodes      cidList
	leaves     cidList
	// What the base has in the same place; empty without a base.
	nodeBases, leafBases cidList
	// differ are the numbers, among all nodes, of those that the base does not have in
	// the same place; only with a base.
	differ []uint32
	// cuts are the first leaves of the segments, without the one being made.
	cuts []uint32
	// larger are the segments that claim to be much larger than most.
	larger   map[int]struct{}
	segment  segment // being made
	complete bool

	// Of an order that is served; guarded by the budget.
	budget  *budget
	users   int     // streams, and a swarm that keeps it
	counted int     // bytes of the budget
	maker   peer.ID // for whom it was made
}

// A segment is a run of leaves that is asked for and compressed together: so many that
// pages of a site that are alike shrink together, so few that a slow peer is soon done
// with one.
const (
	segmentBytes  = 512 << 10 // claimed by links; the last leaf may go beyond
	segmentLeaves = 512
	// In answers with deltas segments from numbers that this divides go together: a
	// delta is small, and those of siblings are alike.
	segmentGroup = 8
)

type segment struct {
	span
	bytes int // claimed
}

var errTooManyBlocks = fmt.Errorf("site of more than %d blocks", maxLeaves)

func newOrder(root, base cid.Cid) *order {
	return &order{
		root: root, base: base,
		nodes: cidList{codec: cid.DagProtobuf}, nodeBases: cidList{codec: cid.DagProtobuf},
		leaves: cidList{codec: cid.Raw}, leafBases: cidList{codec: cid.Raw},
	}
}

func (o *order) based() bool { return o.base.Defined() }

// addNode numbers a node.
func (o *order) addNode(s dag.Step) error {
	if o.nodes.len() == maxNodes {
		return errTooManyBlocks
	}
	if o.based() {
		if !s.Same() {
			o.differ = append(o.differ, uint32(o.nodes.len()))
		}
		o.nodeBases.add(s.Base)
	}
	o.nodes.add(s.CID)
	return nil
}

// addLeaf numbers a leaf. If that completes a segment, it returns it.
func (o *order) addLeaf(s dag.Step) (done segment, ok bool, err error) {
	if o.leaves.len() == maxLeaves {
		return segment{}, false, errTooManyBlocks
	}
	if o.segment.n == 0 {
		o.segment.first = o.leaves.len()
	}
	o.leaves.add(s.CID)
	if o.based() {
		o.leafBases.add(s.Base)
	}
	o.segment.n++
	o.segment.bytes += claimed(s.Size)
	if o.segment.bytes < segmentBytes && o.segment.n < segmentLeaves {
		return segment{}, false, nil
	}
	return o.cut(), true, nil
}

func (o *order) cut() segment {
	done := o.segment
	if done.bytes >= segmentBytes+largeLeaf {
		if o.larger == nil {
			o.larger = make(map[int]struct{})
		}
		o.larger[len(o.cuts)] = struct{}{}
	}
	o.cuts = append(o.cuts, uint32(done.first))
	o.segment = segment{}
	return done
}

// finish ends the numbering, and returns the last segment if there is one.
func (o *order) finish() (last segment, ok bool) {
	o.complete = true
	for _, l := range o.lists() {
		l.digests = slices.Clone(l.digests) // as it grew it has come to take more
	}
	if o.segment.n == 0 {
		return segment{}, false
	}
	return o.cut(), true
}

// claimed is what a link says of the size of a leaf, if it can be true.
func claimed(size uint64) int {
	return int(max(min(size, blockstore.MaxBlockSize), 1))
}

// large says whether a segment claims to be so much larger than most that it takes long to
// pass on.
func (o *order) large(segment int) bool {
	_, ok := o.larger[segment]
	return ok
}

// largeLeaf is by how many bytes such a segment is larger than others.
const largeLeaf = 256 << 10

func (o *order) all() span { return span{0, o.leaves.len()} }

// segmentOf returns the number of the segment of a leaf, and its span.
func (o *order) segmentOf(leaf int) (number int, s span) {
	number = sort.Search(len(o.cuts), func(i int) bool { return int(o.cuts[i]) > leaf }) - 1
	return number, o.segmentSpan(number)
}

func (o *order) segmentSpan(number int) span {
	end := o.leaves.len()
	if number+1 < len(o.cuts) {
		end = int(o.cuts[number+1])
	}
	first := int(o.cuts[number])
	return span{first, end - first}
}

// node returns the ith node, among all or among those that differ from the base, and
// its base.
func (o *order) node(i int, full bool) (c, base cid.Cid) {
	if !full && o.based() {
		i = int(o.differ[i])
	}
	if o.based() {
		base = o.nodeBases.at(i)
	}
	return o.nodes.at(i), base
}

// nodeCount returns how many nodes node knows.
func (o *order) nodeCount(full bool) int {
	if !full && o.based() {
		return len(o.differ)
	}
	return o.nodes.len()
}

// leafBase returns the base of a leaf, if there is one that is another block.
func (o *order) leafBase(leaf int) cid.Cid {
	if !o.based() {
		return cid.Undef
	}
	base := o.leafBases.at(leaf)
	if base.Equals(o.leaves.at(leaf)) {
		return cid.Undef
	}
	return base
}

// size returns about how many bytes of memory the order takes.
func (o *order) size() int {
	n := 4096 + 4*len(o.differ) + 4*len(o.cuts)
	for _, l := range o.lists() {
		n += len(l.digests) + 128*len(l.others)
	}
	return n
}

func (o *order) lists() [4]*cidList {
	return [...]*cidList{&o.nodes, &o.nodeBases, &o.leaves, &o.leafBases}
}

// buildOrder numbers a DAG all the nodes of which are in get.
func buildOrder(ctx context.Context, get Getter, root, base cid.Cid) (*order, error) {
	o := newOrder(root, base)
	if err := o.build(ctx, get, func() error { return nil }); err != nil {
		return nil, err
	}
	return o, nil
}

// build makes o, a new one, that of a DAG all the nodes of which are in get. As it grows it
// calls book, and fails if that does.
func (o *order) build(ctx context.Context, get Getter, book func() error) error {
	cursor := dag.NewCursor(o.root, o.base, 0)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, ok, err := cursor.Next()
		if err != nil {
			return err
		}
		if !ok {
			o.finish()
			return book()
		}
		if s.Leaf() {
			if _, _, err := o.addLeaf(s); err != nil {
				return err
			}
			continue
		}
		if err := o.addNode(s); err != nil {
			return err
		}
		if err := book(); err != nil {
			return err
		}
		links, err := linksOf(ctx, get, s.CID)
		if err != nil {
			return err
		}
		old, err := oldLinks(ctx, get, s)
		if err != nil {
			return err
		}
		if err := cursor.Enter(links, old); err != nil {
			return err
		}
	}
}

// linksOf reads the links of a block that is held.
func linksOf(ctx context.Context, get Getter, c cid.Cid) ([]dag.Link, error) {
	b, err := get.Get(ctx, c)
	if err != nil {
		return nil, err
	}
	return links(b)
}

func links(b blockstore.Block) ([]dag.Link, error) {
	l, err := dag.Links(b)
	if err != nil {
		return nil, fmt.Errorf("%s is not part of a site: %w", b.CID(), err)
	}
	return l, nil
}

// oldLinks reads the links of the base of s, to be compared with those of s. There are
// none if it is the same. If the base cannot be read, nobody could agree on what it has
// in the place of what is below: it fails with errNoBase.
func oldLinks(ctx context.Context, get Getter, s dag.Step) ([]dag.Link, error) {
	if !s.Base.Defined() || s.Same() {
		return nil, nil
	}
	b, err := get.Get(ctx, s.Base)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBase, err)
	}
	l, err := dag.Links(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBase, err)
	}
	return l, nil
}

var errNoBase = errors.New("the earlier version is not whole")

// cidList is a list of CIDs, most of which have the same codec and SHA2-256: such take 32
// bytes. Undefined ones can be in it.
type cidList struct {
	codec   uint64
	digests []byte // 32 bytes each, zero for what is in others
	others  map[int]cid.Cid
}

const digestSize = 32

func (l *cidList) len() int { return len(l.digests) / digestSize }

func (l *cidList) add(c cid.Cid) {
	if c.Defined() && c.Version() == 1 && c.Type() == l.codec {
		if mh := c.Hash(); len(mh) == 2+digestSize && mh[0] == multihash.SHA2_256 && mh[1] == digestSize {
			l.digests = append(l.digests, mh[2:]...)
			return
		}
	}
	if c.Defined() {
		if l.others == nil {
			l.others = make(map[int]cid.Cid)
		}
		l.others[l.len()] = c
	}
	l.digests = append(l.digests, make([]byte, digestSize)...)
}

func (l *cidList) at(i int) cid.Cid {
	digest := l.digests[i*digestSize:][:digestSize]
	if [digestSize]byte(digest) == ([digestSize]byte{}) {
		return l.others[i]
	}
	mh := append([]byte{multihash.SHA2_256, digestSize}, digest...)
	return cid.NewCidV1(l.codec, mh)
}
