package dag

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
)

// graph is DAGs in memory.
type graph map[cid.Cid][]Link

func (g graph) leaf(text string) Link {
	return Link{CID: blockstore.Sum(cid.Raw, []byte(text)).CID(), Size: uint64(len(text))}
}

func (g graph) node(name string, links ...Link) Link {
	b := blockstore.Sum(cid.DagProtobuf, Node{Links: links, Data: []byte{8, 1}}.Encode())
	g[b.CID()] = links
	size := uint64(len(b.Data()))
	for _, l := range links {
		size += l.Size
	}
	return Link{Name: name, CID: b.CID(), Size: size}
}

func named(name string, l Link) Link { l.Name = name; return l }

// steps returns what a Cursor comes to.
func (g graph) steps(t *testing.T, root, base cid.Cid) []Step {
	t.Helper()
	c := NewCursor(root, base, 0)
	var steps []Step
	for {
		s, ok, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return steps
		}
		steps = append(steps, s)
		if !s.Leaf() {
			if err := c.Enter(g[s.CID], g[s.Base]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCursor(t *testing.T) {
	g := graph{}
	a, b, c, d := g.leaf("a"), g.leaf("b"), g.leaf("c"), g.leaf("d")
	same := g.node("same", named("x", c), named("y", d))
	inline, err := cid.V1Builder{Codec: cid.Raw, MhType: multihash.IDENTITY}.Sum([]byte("inline"))
	if err != nil {
		t.Fatal(err)
	}
	big := g.node("big", a, b) // a file of two chunks
	big2 := g.node("big", c, b)
	v1 := g.node("", big, named("f", a), same).CID
	v2 := g.node("", big2, named("f", b), named("g", a), named("i", Link{CID: inline, Size: 6}), same, named("z", c)).CID

	want := func(steps []Step, list ...Step) {
		t.Helper()
		for i := range list {
			list[i].Size, steps[i].Size = 0, 0
		}
		if !slices.Equal(steps, list) {
			t.Errorf("got  %v\nwant %v", steps, list)
		}
	}
	// Without an earlier version: every block once, where it occurs first.
	want(g.steps(t, v2, cid.Undef),
		Step{CID: v2}, Step{CID: big2.CID}, Step{CID: c.CID}, Step{CID: b.CID}, Step{CID: a.CID},
		Step{CID: same.CID}, Step{CID: d.CID})
	// With one: the same blocks, and what stood in their places.
	want(g.steps(t, v2, v1),
		Step{CID: v2, Base: v1},
		Step{CID: big2.CID, Base: big.CID}, Step{CID: c.CID, Base: a.CID}, Step{CID: b.CID, Base: b.CID},
		Step{CID: a.CID}, // under a new name
		Step{CID: same.CID, Base: same.CID}, Step{CID: d.CID, Base: d.CID})
}

func TestCursorRepeated(t *testing.T) {
	g := graph{}
	a, b := g.leaf("aaaa"), g.leaf("b")
	c := NewCursor(g.node("", named("1", a), named("2", b), named("3", a)).CID, cid.Undef, 0)
	for {
		s, ok, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if err := c.Enter(g[s.CID], nil); err != nil {
			t.Fatal(err)
		}
	}
	if c.Repeated() != 4 {
		t.Errorf("%d bytes were repeated, want 4", c.Repeated())
	}
}

// TestCursorDeep goes down a long chain: what was passed on the way takes no room.
func TestCursorDeep(t *testing.T) {
	wide := make([]Link, 1000)
	for i := range wide {
		wide[i] = Link{CID: blockstore.Sum(cid.Raw, fmt.Append(nil, i)).CID()}
	}
	c := NewCursor(blockstore.Sum(cid.DagProtobuf, nil).CID(), cid.Undef, 0)
	if _, _, err := c.Next(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxPending / len(wide) {
		next := blockstore.Sum(cid.DagProtobuf, fmt.Append(nil, i)).CID()
		if err := c.Enter(append(slices.Clone(wide), Link{CID: next}), nil); err != nil {
			t.Fatal(err)
		}
		for {
			s, ok, err := c.Next()
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			if s.CID.Equals(next) {
				break
			}
		}
	}
}
