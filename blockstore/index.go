package blockstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
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

// errBadIndex reports an index that cannot be used; it is then rebuilt.
var errBadIndex = errors.New("unusable index")

// index finds entries by key. It is either live, a map that grows with the pack
// being written, or sealed, an index file mapped into memory.
type index struct {
	live   map[key]entry
	sealed []byte // the mapped file, nil while live
	unmap  func() error

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

func (x *index) find(k key) (entry, bool) {
	if x.sealed == nil {
		e, ok := x.live[k]
		return e, ok
	}
	fanout := x.sealed[indexHeader:]
	lo, hi := 0, int(binary.LittleEndian.Uint32(fanout[4*int(k[0]):]))
	if k[0] > 0 {
		lo = int(binary.LittleEndian.Uint32(fanout[4*(int(k[0])-1):]))
	}
	entries := x.sealed[indexHeader+fanoutSize:]
	for lo < hi {
		mid := (lo + hi) / 2
		e := entries[mid*entrySize : (mid+1)*entrySize]
		switch c := bytes.Compare(e[:32], k[:]); {
		case c == 0:
			return entry{
				offset: binary.LittleEndian.Uint32(e[32:]),
				size:   binary.LittleEndian.Uint32(e[36:]),
				raw:    binary.LittleEndian.Uint32(e[40:]),
			}, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return entry{}, false
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
		buf = append(buf, k[:]...)
		buf = binary.LittleEndian.AppendUint32(buf, e.offset)
		buf = binary.LittleEndian.AppendUint32(buf, e.size)
		buf = binary.LittleEndian.AppendUint32(buf, e.raw)
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

// openIndex maps the index file f of the pack with the given id and size. It
// fails with errBadIndex if f is damaged or belongs to another pack, or another
// length of it, and with ErrNewerFormat if a later version wrote it.
func openIndex(f File, id packID, packSize int64) (index, error) {
	size, err := f.Size()
	if err != nil {
		return index{}, err
	}
	var head [indexHeader]byte
	if size < indexHeader+fanoutSize {
		return index{}, fmt.Errorf("%w: too short", errBadIndex)
	}
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return index{}, fmt.Errorf("%w: %w", errBadIndex, err)
	}
	count := int64(binary.LittleEndian.Uint32(head[12:]))
	switch {
	case string(head[:8]) != indexMagic,
		crc32.Checksum(head[:52], castagnoli) != binary.LittleEndian.Uint32(head[52:]):
		return index{}, fmt.Errorf("%w: damaged head", errBadIndex)
	case binary.LittleEndian.Uint32(head[8:]) > formatVersion:
		return index{}, fmt.Errorf("index has format version %d: %w", binary.LittleEndian.Uint32(head[8:]), ErrNewerFormat)
	case binary.LittleEndian.Uint32(head[8:]) < formatVersion:
		return index{}, fmt.Errorf("%w: older version", errBadIndex)
	case packID(head[16:32]) != id,
		binary.LittleEndian.Uint64(head[32:]) != uint64(packSize):
		return index{}, fmt.Errorf("%w: of another pack", errBadIndex)
	case size != indexHeader+fanoutSize+count*entrySize:
		return index{}, fmt.Errorf("%w: wrong length", errBadIndex)
	}
	// The checksum is read through a buffer, not the map: it touches every
	// page, and mapped pages would stay resident.
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(f, indexHeader, size-indexHeader)); err != nil {
		return index{}, fmt.Errorf("%w: %w", errBadIndex, err)
	}
	if sum.Sum32() != binary.LittleEndian.Uint32(head[48:]) {
		return index{}, fmt.Errorf("%w: damaged entries", errBadIndex)
	}
	data, unmap, err := f.Map()
	if err != nil {
		return index{}, err
	}
	last := uint32(0)
	for i := range 256 {
		n := binary.LittleEndian.Uint32(data[indexHeader+4*i:])
		if n < last || int64(n) > count {
			unmap()
			return index{}, fmt.Errorf("%w: damaged fan-out", errBadIndex)
		}
		last = n
	}
	return index{
		sealed:   data,
		unmap:    unmap,
		count:    int(count),
		rawBytes: int64(binary.LittleEndian.Uint64(head[40:])),
	}, nil
}

func (x *index) close() error {
	if x.unmap == nil {
		return nil
	}
	return x.unmap()
}
