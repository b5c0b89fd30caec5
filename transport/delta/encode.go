package delta

import (
	"encoding/binary"
	"math/bits"

	"pollux/transport/delta/deflate"
)

const (
	keySize = 8 // bytes by which runs of the base are found
	// minMatch is the shortest run that is copied from somewhere in the base. One
	// of kind 0 or 1 costs less, and may be as short as a key.
	minMatch = 16
	// sampling is how many bytes of the base that did not change stand behind one entry
	// of the index.
	sampling = 8
	// maxIndexBits bounds the index to 1 MiB, about what caches hold; and to up to 8
	// MiB where the base has more bytes than a block.
	maxIndexBits = 18
)

// Encoder makes deltas. The zero Encoder is ready. It keeps memory for the next call, 4
// MiB at most. Two goroutines need two.
type Encoder struct {
	index    []int32 // by hash of a key: a place in the base where it is, + 1
	shift    int     // from a hash of 64 bits to one of index
	literals []byte
	codec    *deflate.Codec // or nil until there is a use for it

	// Of the call that runs:
	ops          []byte
	base, target []byte
	cursor       int // in base
	done         int // bytes of target that ops make

	work int // slots cleared, filled and looked up, and words compared, which tests bound
}

// Append appends to dst a delta that makes target of base, two blocks of at most
// blockstore.MaxBlockSize bytes. Any two have one; whether it is worth sending, its length
// says, which is at most 9 more than that of target. It takes time in proportion to the
// lengths of both; for blocks that it opens, some 100 ms as a rule and 2.5 s at worst for a MiB
// of streams in base, and 100 MiB at worst, of two calls at a time, which do not wait for those
// of Apply. dst must not overlap with them.
func (e *Encoder) Append(dst, base, target []byte) []byte {
	n := len(dst)
	dst = e.append(dst, base, target)
	ordinary := len(dst)
	if ordinary-n < minOpen {
		return dst
	}
	if d, ok := e.appendOpened(dst, base, target, ordinary-n); ok {
		return append(dst[:n], d[ordinary:]...)
	}
	return dst
}

// append does it with the bytes as they are.
func (e *Encoder) append(dst, base, target []byte) []byte {
	e.ops, e.literals = dst, e.literals[:0]
	e.base, e.target = base, target
	e.cursor, e.done, e.work = 0, 0, 0

	// Most changes are small: what is the same at both ends needs no search.
	head := prefixLen(base, target)
	e.work += words(head)
	tail := suffixLen(base[head:], target[head:])
	e.work += words(tail)
	if head > 0 {
		e.copy(0, 0, head)
	}
	e.search(head, tail)
	if tail > 0 {
		e.copy(len(target)-tail, len(base)-tail, tail)
	}
	if rest := target[e.done:]; len(rest) > 0 {
		e.ops = binary.AppendUvarint(e.ops, uint64(len(rest))<<2|uint64(kindLiteral))
		e.literals = append(e.literals, rest...)
	}
	dst = append(e.ops, e.literals...)
	e.ops, e.base, e.target = nil, nil, nil
	return dst
}

// search finds runs of the base in the target, but for the head and tail that both share.
func (e *Encoder) search(head, tail int) {
	end := len(e.target) - tail
	if end-head < minMatch || len(e.base) < keySize {
		return
	}
	e.fillIndex(head, len(e.base)-tail)
	base, target := e.base, e.target[:end]
	for i := head; i+keySize <= end; {
		key := load(target, i)
		pos, back, n := 0, 0, 0 // the longest match: base[pos-back:pos+n]
		// As if what came since the last run was inserted, or replaced as many bytes.
		for _, p := range [2]int{e.cursor, e.cursor + i - e.done} {
			if p+keySize <= len(base) && load(base, p) == key {
				l := prefixLen(base[p:], target[i:])
				if e.work += words(l); l > n {
					pos, n = p, l
				}
			}
		}
		if p := int(e.index[e.slot(key)]) - 1; p >= 0 && load(base, p) == key {
			l := prefixLen(base[p:], target[i:])
			b := suffixLen(base[:p], target[e.done:i])
			e.work += words(l) + words(b)
			if l+b >= minMatch && l+b > n {
				pos, back, n = p, b, l
			}
		}
		e.work++
		if n == 0 {
			// Where nothing was found for long, there is little: images, archives.
			i += 1 + min((i-e.done)>>8, 7)
			continue
		}
		e.copy(i-back, pos-back, back+n)
		i += n
	}
}

// fillIndex indexes the base: base[from:to], which changed, closely, since most of it is
// still there in part, and samples of the rest. Of keys that are there more than once, the
// first in base[from:to] counts, or else the first.
func (e *Encoder) fillIndex(from, to int) {
	last := len(e.base) - keySize
	to = min(to, last+1)
	changed := max(to-from, 0)
	// With more keys than slots, only those at the base's start would remain.
	most := max(maxIndexBits, bits.Len(uint(len(e.base)-1))-3)
	step := 1 + changed>>most
	n := last/sampling + changed/step + 2 // or one less
	size := min(max(bits.Len(uint(n)), 4), most)
	if cap(e.index) < 1<<size {
		e.index = make([]int32, 1<<size)
	}
	e.index = e.index[:1<<size]
	clear(e.index)
	e.shift = 64 - size
	for i := last; i >= 0; i -= sampling {
		e.index[e.slot(load(e.base, i))] = int32(i + 1)
	}
	for i := to - 1; i >= from; i -= step {
		e.index[e.slot(load(e.base, i))] = int32(i + 1)
	}
	e.work += len(e.index) + n
}

func (e *Encoder) slot(key uint64) uint64 {
	return key * 0x9e3779b97f4a7c15 >> e.shift // 2^64 / golden ratio
}

// copy appends an operation that makes target[e.done:at+n]: literals up to at, and
// base[pos:pos+n].
func (e *Encoder) copy(at, pos, n int) {
	literals := e.target[e.done:at]
	e.literals = append(e.literals, literals...)
	head := uint64(len(literals)) << 2
	switch skip := pos - e.cursor; skip {
	case 0:
		e.ops = binary.AppendUvarint(e.ops, head|uint64(kindInsert))
	case len(literals):
		e.ops = binary.AppendUvarint(e.ops, head|uint64(kindReplace))
	default:
		e.ops = binary.AppendUvarint(e.ops, head|uint64(kindSkip))
		e.ops = binary.AppendVarint(e.ops, int64(skip))
	}
	e.cursor, e.done = pos+n, at+n
	if behind := len(e.base) - e.cursor; behind < n {
		e.ops = binary.AppendUvarint(e.ops, uint64(behind)<<1|1)
	} else {
		e.ops = binary.AppendUvarint(e.ops, uint64(n)<<1)
	}
}

// words returns how many words are loaded to find that n bytes are the same.
func words(n int) int { return n/8 + 1 }

func load(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }

// prefixLen returns how many bytes at the start of a and b are the same.
func prefixLen(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if diff := load(a, i) ^ load(b, i); diff != 0 {
			return i + bits.TrailingZeros64(diff)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// suffixLen returns how many bytes at the end of a and b are the same.
func suffixLen(a, b []byte) int {
	n := min(len(a), len(b))
	a, b = a[len(a)-n:], b[len(b)-n:]
	i := n
	for ; i >= 8; i -= 8 {
		if diff := load(a, i-8) ^ load(b, i-8); diff != 0 {
			return n - i + bits.LeadingZeros64(diff)/8
		}
	}
	for i > 0 && a[i-1] == b[i-1] {
		i--
	}
	return n - i
}
