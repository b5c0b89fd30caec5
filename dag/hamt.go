package dag

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/spaolacci/murmur3"

	"pollux/blockstore"
)

// A directory too large for one block is a hash array mapped trie: the hash of a
// name, read from its most significant bit, picks a slot in each node on the way
// down, and an entry lives in the first node where no other entry shares its slot.
// A node ("shard") has a bitmap of the slots in use and one link for each, in
// order, whose name starts with the slot's number in upper-case hexadecimal; then
// follows the entry's name, or nothing where the link leads to a further shard.

const (
	hamtHash      = 0x22 // murmur3-x64-64
	hamtFanout    = 256  // slots of a shard that we build
	maxHAMTFanout = 1024
	hashBits      = 64
)

// errHAMTDepth reports names whose hashes are equal as far as they go. Others call
// it "sharded directory too deep".
var errHAMTDepth = errors.New("names collide in the hash of a sharded directory")

func hashName(name string) uint64 { return murmur3.Sum64([]byte(name)) }

// shard is a checked HAMT node.
type shard struct {
	width int         // bits of the hash that pick a slot
	hex   int         // digits of a slot's number in link names
	slots []shardSlot // those in use, in order
}

type shardSlot struct {
	index uint64
	name  string // of the entry; empty where link leads to a further shard
	link  Link
}

// shardPos says where a shard hangs in its directory.
type shardPos struct {
	fanout uint64 // of the shards above; 0 at the top
	level  int    // shards above
	prefix uint64 // the bits of the hash that led here, level*width of them
}

// readShard decodes the HAMT node at pos and checks that fanout, bitmap and link
// names agree with each other and with pos. Errors wrap ErrMalformed.
func readShard(n Node, u unixfs, pos shardPos) (shard, error) {
	s, err := decodeShard(n, u, pos)
	if err != nil {
		return shard{}, fmt.Errorf("%w: HAMT: %w", ErrMalformed, err)
	}
	return s, nil
}

func decodeShard(n Node, u unixfs, pos shardPos) (shard, error) {
	fanout := u.Fanout
	switch {
	case u.Type != typeHAMTShard:
		return shard{}, fmt.Errorf("shard is a %s", u.Type)
	case u.HashType != hamtHash:
		return shard{}, fmt.Errorf("hash 0x%x is not murmur3-x64-64", u.HashType)
	case fanout < 8 || fanout > maxHAMTFanout || fanout&(fanout-1) != 0:
		return shard{}, fmt.Errorf("fanout %d is not a power of two from 8 to %d", fanout, maxHAMTFanout)
	case pos.fanout != 0 && pos.fanout != fanout:
		return shard{}, fmt.Errorf("fanout %d below fanout %d", fanout, pos.fanout)
	case uint64(len(u.Data)) > fanout/8:
		return shard{}, fmt.Errorf("bitmap of %d bytes for fanout %d", len(u.Data), fanout)
	}
	s := shard{
		width: bits.TrailingZeros64(fanout),
		hex:   (bits.Len64(fanout-1) + 3) / 4,
	}
	if (pos.level+1)*s.width > hashBits {
		return shard{}, errHAMTDepth
	}
	ones := 0
	for _, b := range u.Data {
		ones += bits.OnesCount8(b)
	}
	if ones != len(n.Links) {
		return shard{}, fmt.Errorf("bitmap has %d slots, node has %d links", ones, len(n.Links))
	}
	if ones == 0 && pos.level > 0 {
		// Empty shards that link many times to each other could keep a reader
		// busy forever for nothing.
		return shard{}, errors.New("empty shard below the top")
	}
	s.slots = make([]shardSlot, 0, ones)
	// The bitmap is big-endian: slot 0 is the lowest bit of the last byte.
	for i := range len(u.Data) * 8 {
		if u.Data[len(u.Data)-1-i/8]>>(i%8)&1 == 0 {
			continue
		}
		l := n.Links[len(s.slots)]
		if !startsWithSlot(l.Name, i, s.hex) {
			return shard{}, fmt.Errorf("link %q in slot %0*X", l.Name, s.hex, i)
		}
		s.slots = append(s.slots, shardSlot{uint64(i), l.Name[s.hex:], l})
	}
	return s, nil
}

// startsWithSlot says whether name starts with the number of a slot, written in the
// given number of upper-case hexadecimal digits.
func startsWithSlot(name string, slot, digits int) bool {
	if len(name) < digits {
		return false
	}
	for i := range digits {
		if name[i] != "0123456789ABCDEF"[slot>>(4*(digits-1-i))&0xf] {
			return false
		}
	}
	return true
}

// slotOf returns the slot that a name's hash picks in a shard at the given level.
func (s shard) slotOf(hash uint64, level int) uint64 {
	return hash << (level * s.width) >> (hashBits - s.width)
}

// find returns the slot with the given index.
func (s shard) find(index uint64) (shardSlot, bool) {
	i, ok := slices.BinarySearchFunc(s.slots, index, func(e shardSlot, index uint64) int {
		return cmp.Compare(e.index, index)
	})
	if !ok {
		return shardSlot{}, false
	}
	return s.slots[i], true
}

// below returns the position of the shard that slot leads to.
func (s shard) below(pos shardPos, slot shardSlot) shardPos {
	return shardPos{1 << s.width, pos.level + 1, pos.prefix<<s.width | slot.index}
}

// misplaced says whether an entry's name does not hash to the slot it is in. An
// entry in the wrong slot could be listed but not found, and would let one name
// appear twice.
func (s shard) misplaced(pos shardPos, slot shardSlot) bool {
	used := (pos.level + 1) * s.width
	return hashName(slot.name)>>(hashBits-used) != s.below(pos, slot).prefix
}

// buildHAMT builds the shards of a directory with the given entries, which have
// distinct names, writes them with put, and returns a link to the topmost, which alone
// has the metadata.
func buildHAMT(entries []Link, meta metadata, put func(blockstore.Block) error) (Link, error) {
	return buildShard(hashLinks(entries), 0, meta, put)
}

type hashedLink struct {
	hash uint64
	link Link
}

// hashLinks returns the entries sorted by the hash of their names.
func hashLinks(entries []Link) []hashedLink {
	hashed := make([]hashedLink, len(entries))
	for i, l := range entries {
		hashed[i] = hashedLink{hashName(l.Name), l}
	}
	slices.SortFunc(hashed, func(a, b hashedLink) int { return cmp.Compare(a.hash, b.hash) })
	return hashed
}

// buildShard builds the shard for entries that are sorted by hash and agree in its
// first level bytes. It calls itself at most eight deep, once for each byte.
func buildShard(entries []hashedLink, level int, meta metadata, put func(blockstore.Block) error) (Link, error) {
	if level*8 == hashBits {
		return Link{}, errHAMTDepth
	}
	var slots [hamtFanout]Link
	for len(entries) > 0 {
		index := entries[0].slot(level)
		same := 1
		for same < len(entries) && entries[same].slot(level) == index {
			same++
		}
		var err error
		if slots[index], err = buildSlot(entries[:same], level, put); err != nil {
			return Link{}, err
		}
		entries = entries[same:]
	}
	return putShard(&slots, meta, put)
}

// slot returns the slot for l in a shard at the given level.
func (l hashedLink) slot(level int) byte { return byte(l.hash << (level * 8) >> (hashBits - 8)) }

// buildSlot returns what is in a slot of a shard at the given level for the entries that
// belong there, sorted by hash: the one entry, or an unnamed link to a shard with all.
func buildSlot(entries []hashedLink, level int, put func(blockstore.Block) error) (Link, error) {
	if len(entries) == 1 {
		return entries[0].link, nil
	}
	return buildShard(entries, level+1, metadata{}, put)
}

// putShard writes the shard with the given slots, of which those without a CID are not
// in use.
func putShard(slots *[hamtFanout]Link, meta metadata, put func(blockstore.Block) error) (Link, error) {
	const hex = "0123456789ABCDEF"
	var bitmap [hamtFanout / 8]byte
	var n Node
	for i, l := range slots {
		if !l.CID.Defined() {
			continue
		}
		l.Name = string([]byte{hex[i>>4], hex[i&15]}) + l.Name
		n.Links = append(n.Links, l)
		bitmap[len(bitmap)-1-i/8] |= 1 << (i % 8)
	}
	u := unixfs{
		Type: typeHAMTShard, Data: trimZeros(bitmap[:]), HashType: hamtHash, Fanout: hamtFanout,
		Mode: meta.mode, ModTime: meta.modTime,
	}
	n.Data = u.Encode()
	return putNode(n, put)
}

// trimZeros drops leading zero bytes, as bitmaps are written.
func trimZeros(b []byte) []byte {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// putNode writes n as a block and returns an unnamed link to it, whose Size is
// that of n's block and of all below it.
func putNode(n Node, put func(blockstore.Block) error) (Link, error) {
	b := blockstore.Sum(cid.DagProtobuf, n.Encode())
	size := uint64(len(b.Data()))
	for _, l := range n.Links {
		size += l.Size
	}
	return Link{CID: b.CID(), Size: size}, put(b)
}
