package dag

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

var (
	// ErrNotExist reports a name that is not in its directory. A block that
	// could not be read is never reported so.
	ErrNotExist = errors.New("no such entry")
	// ErrNotDir reports a file or symlink where a directory is asked for.
	ErrNotDir = errors.New("not a directory")
)

// Resolve follows a slash-separated path down from root and returns what is there.
// Empty segments are ignored, so "" and "/" are root itself; "." and ".." are names
// like any other. Symlinks are not followed: one at the end is returned, one before
// it is ErrNotDir. Errors name the part of the path that they are about.
func Resolve(ctx context.Context, get Getter, root cid.Cid, path string) (Entry, error) {
	at := Link{CID: root}
	var walked []string // the segments down to at
	about := func(err error, segments ...string) error {
		return fmt.Errorf("%q: %w", strings.Join(append(append([]string{root.String()}, walked...), segments...), "/"), err)
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" {
			continue
		}
		next, err := lookup(ctx, get, at.CID, segment)
		if errors.Is(err, ErrNotExist) {
			return Entry{}, about(err, segment)
		}
		if err != nil {
			return Entry{}, about(err)
		}
		at, walked = next, append(walked, segment)
	}
	name := ""
	if len(walked) > 0 {
		name = walked[len(walked)-1]
		if at.CID.Type() == cid.Raw {
			return rawEntry(name, at), nil
		}
	}
	b, err := load(ctx, get, at.CID)
	if err != nil {
		return Entry{}, about(err)
	}
	return blockEntry(name, b)
}

// lookup returns the link to the entry called name in a directory, the first one if
// a malformed directory has several.
func lookup(ctx context.Context, get Getter, dir cid.Cid, name string) (Link, error) {
	if dir.Type() == cid.Raw {
		return Link{}, notDirError(typeRaw)
	}
	b, err := load(ctx, get, dir)
	if err != nil {
		return Link{}, err
	}
	n, u, err := decodeBlock(b)
	if err != nil {
		return Link{}, err
	}
	switch u.Type {
	case typeDirectory:
		for _, l := range n.Links {
			if l.Name == name {
				return l, nil
			}
		}
		return Link{}, ErrNotExist
	case typeHAMTShard:
		return lookupHAMT(ctx, get, n, u, name)
	}
	return Link{}, notDirError(u.Type)
}

func notDirError(t unixfsType) error {
	if t == typeRaw {
		t = typeFile
	}
	return fmt.Errorf("%w but a %s", ErrNotDir, t)
}

func lookupHAMT(ctx context.Context, get Getter, n Node, u unixfs, name string) (Link, error) {
	hash := hashName(name)
	var pos shardPos
	for {
		s, err := readShard(n, u, pos)
		if err != nil {
			return Link{}, err
		}
		slot, ok := s.find(s.slotOf(hash, pos.level))
		switch {
		case !ok, slot.name != "" && slot.name != name:
			return Link{}, ErrNotExist
		case slot.name == name:
			return slot.link, nil
		}
		b, err := load(ctx, get, slot.link.CID)
		if err != nil {
			return Link{}, err
		}
		if n, u, err = decodeBlock(b); err != nil {
			return Link{}, err
		}
		pos = s.below(pos, slot)
	}
}

// listStep is what List comes to: the directory, one of its shards, or an entry.
type listStep struct {
	kind  listKind
	pos   shardPos // of a shard
	name  string   // of an entry
	entry Link
	// known are the entries that the same node leads to, by CID, so that the topmost
	// block of each is read once. Without this, a node that links many times to a
	// large one could keep a reader busy for hours.
	known map[cid.Cid]Entry
}

type listKind uint8

const (
	listTop listKind = iota
	listShard
	listEntry
)

// List returns the entries of a directory in the order in which they are stored:
// by name in a plain directory, by the hash of the name in a sharded one. It reads the
// topmost block of each entry, a few ahead, but not those of files of one raw block,
// whose sizes it takes from the directory. The sequence ends with its first error;
// without one it is whole.
func List(ctx context.Context, get Getter, dir cid.Cid) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		stopped := errors.New("stopped")
		first := step[listStep]{cid: dir, info: listStep{kind: listTop}}
		err := descend(ctx, get, first, func(at listStep, b blockstore.Block) ([]step[listStep], error) {
			if at.kind != listEntry {
				return listDirectory(at, b)
			}
			e, err := at.resolve(b)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", at.name, err)
			}
			if !yield(e, nil) {
				return nil, stopped
			}
			return nil, nil
		})
		if err != nil && err != stopped {
			yield(Entry{}, err)
		}
	}
}

// resolve returns the entry that at stands for, of which b is the topmost block
// unless that is a raw one or was read before.
func (at listStep) resolve(b blockstore.Block) (Entry, error) {
	if at.entry.CID.Type() == cid.Raw {
		return rawEntry(at.name, at.entry), nil
	}
	e := at.known[at.entry.CID]
	if e.Kind == 0 {
		var err error
		if e, err = blockEntry("", b); err != nil {
			return Entry{}, err
		}
		at.known[at.entry.CID] = e
	}
	e.Name = at.name
	return e, nil
}

// listDirectory returns the steps below a directory's node or shard.
func listDirectory(at listStep, b blockstore.Block) ([]step[listStep], error) {
	if b.CID().Type() == cid.Raw {
		return nil, fmt.Errorf("%s: %w", b.CID(), notDirError(typeRaw))
	}
	n, u, err := decodeBlock(b)
	if err != nil {
		return nil, err
	}
	known := make(map[cid.Cid]Entry)
	if at.kind == listTop && u.Type == typeDirectory {
		steps := make([]step[listStep], len(n.Links))
		for i, l := range n.Links {
			steps[i] = entryStep(l.Name, l, known)
		}
		return steps, nil
	}
	if at.kind == listTop && u.Type != typeHAMTShard {
		return nil, fmt.Errorf("%s: %w", b.CID(), notDirError(u.Type))
	}
	s, err := readShard(n, u, at.pos)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.CID(), err)
	}
	steps := make([]step[listStep], len(s.slots))
	for i, slot := range s.slots {
		if slot.name == "" {
			info := listStep{kind: listShard, pos: s.below(at.pos, slot)}
			steps[i] = step[listStep]{cid: slot.link.CID, info: info}
			continue
		}
		if s.misplaced(at.pos, slot) {
			return nil, fmt.Errorf("%s: %w: HAMT: %q is in a slot that its hash does not pick", b.CID(), ErrMalformed, slot.name)
		}
		steps[i] = entryStep(slot.name, slot.link, known)
	}
	return steps, nil
}

// entryStep returns the step to an entry of a node. It puts the CID of each entry whose
// block is to be read into known, which the steps to all entries of the node share.
func entryStep(name string, l Link, known map[cid.Cid]Entry) step[listStep] {
	skip := l.CID.Type() == cid.Raw
	if !skip {
		if _, skip = known[l.CID]; !skip {
			known[l.CID] = Entry{} // until it is visited, which is before those after it
		}
	}
	return step[listStep]{
		cid:  l.CID,
		skip: skip,
		info: listStep{kind: listEntry, name: name, entry: l, known: known},
	}
}
