package blockstore

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"iter"
	"slices"
)

// An index file lists the blocks of one sealed pack, sorted by key (docs/format.md):
//
//	 0  magic       8 bytes "PLXINDEX"
//	 8  version     u32
//	12  count       u32, number of entries
//	16  pack id     16 bytes, as in the pack's head
//	32  pack size   u64, bytes of the pack that the index covers
//	40  raw bytes   u64, sum of the blocks' lengths
//	48  entries CRC u32, CRC-32C of all that follows the head
//	52  head CRC    u32, CRC-32C of bytes 0 to 52
//	56  fan-out     256 × u32, number of entries whose key's first byte is ≤ i
//	    entries     44 bytes each: key, offset u32, record size u32, raw size u32
const (
	indexMagic  = "PLXINDEX"
	indexHeader = 56
	fanoutSize  = 256 * 4
	entrySize   = 44
)

// entry says where a block's record lies in its pack.
type entry struct {
	offset uint32 // of the record
	size   uint32 // of the record
	raw    uint32 // of the block
}

func appendEntry(b []byte, k key, e entry) []byte {
	b = append(b, k[:]...)
	b = binary.LittleEndian.AppendUint32(b, e.offset)
	b = binary.LittleEndian.AppendUint32(b, e.size)
	return binary.LittleEndian.AppendUint32(b, e.raw)
}

// parseEntry returns what follows the key in the entry that b starts with.
func parseEntry(b []byte) entry {
	return entry{
		offset: binary.LittleEndian.Uint32(b[32:]),
		size:   binary.LittleEndian.Uint32(b[36:]),
		raw:    binary.LittleEndian.Uint32(b[40:]),
	}
}

// index finds entries by key. It is either live, a map that grows with the pack
// being written, or sealed, an index file.
type index struct {
	live   map[key]entry
	sealed *sealedIndex // nil while live

	count    int
	rawBytes int64
}

func newIndex() index { return index{live: make(map[key]entry)} }

// add records e under k in a live index. The last record of a block counts: where
// there are two, the first may be damaged.
func (x *index) add(k key, e entry) {
	if old, ok := x.live[k]; ok {
		x.count--
		x.rawBytes -= int64(old.raw)
	}
	x.live[k] = e
	x.count++
	x.rawBytes += int64(e.raw)
}

// find returns the entry of k. An error says that the index file cannot be read as it
// was written: then it is not known whether there is an entry.
func (x *index) find(k key) (entry, bool, error) {
	if x.sealed != nil {
		return x.sealed.find(&k)
	}
	e, ok := x.live[k]
	return e, ok, nil
}

// all yields the entries, in no particular order. It ends after an error, which is as
// with find.
func (x *index) all() iter.Seq2[located, error] {
	if x.sealed != nil {
		return x.sealed.all()
	}
	return func(yield func(located, error) bool) {
		for k, e := range x.live {
			if !yield(located{k, e}, nil) {
				return
			}
		}
	}
}

// size returns the bytes of the index file that there is or will be.
func (x *index) size() int64 { return indexHeader + fanoutSize + int64(x.count)*entrySize }

// encode returns the index file of a live index.
func (x *index) encode(id packID, packSize int64) []byte {
	keys := make([]key, 0, len(x.live))
	for k := range x.live {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int { return bytes.Compare(a[:], b[:]) })

	buf := make([]byte, indexHeader+fanoutSize, indexHeader+fanoutSize+len(keys)*entrySize)
	var counts [256]uint32
	for _, k := range keys {
		e := x.live[k]
		counts[k[0]]++
		buf = appendEntry(buf, k, e)
	}
	sum := uint32(0)
	for i, n := range counts {
		sum += n
		binary.LittleEndian.PutUint32(buf[indexHeader+4*i:], sum)
	}
	copy(buf, indexMagic)
	binary.LittleEndian.PutUint32(buf[8:], formatVersion)
	binary.LittleEndian.PutUint32(buf[12:], uint32(len(keys)))
	copy(buf[16:], id[:])
	binary.LittleEndian.PutUint64(buf[32:], uint64(packSize))
	binary.LittleEndian.PutUint64(buf[40:], uint64(x.rawBytes))
	binary.LittleEndian.PutUint32(buf[48:], crc32.Checksum(buf[indexHeader:], castagnoli))
	binary.LittleEndian.PutUint32(buf[52:], crc32.Checksum(buf[:52], castagnoli))
	return buf
}

func (x *index) close() error {
	if x.sealed == nil {
		return nil
	}
	return x.sealed.file.Close()
}
