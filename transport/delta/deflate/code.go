package deflate

import (
	"errors"
	"math/bits"
)

const (
	literals  = 286 // symbols of bytes, of the end of a block, and of match lengths
	distances = 30
	endSymbol = 256

	minMatch = 3
	maxMatch = 258
	window   = 32 << 10
)

// A match length is 3 and the lower bound of its symbol, and as many more bits as the
// symbol says. So is a distance, with 1.
var (
	lengthBase, lengthExtra     [29]uint16
	distanceBase, distanceExtra [distances]uint16
	lengthSymbol                [maxMatch - minMatch + 1]uint8 // of length - 3, from 0
)

func init() {
	// RFC 1951, 3.2.5: four symbols for each number of extra bits, two for distances,
	// but the first with none are twice as many; and 258 has a symbol of its own.
	for s, next := 0, 0; s < 28; s++ {
		extra := max(s/4-1, 0)
		lengthBase[s], lengthExtra[s] = uint16(next), uint16(extra)
		for range 1 << extra {
			lengthSymbol[next] = uint8(s)
			next++
		}
	}
	lengthBase[28] = maxMatch - minMatch
	lengthSymbol[maxMatch-minMatch] = 28
	for s, next := 0, 0; s < distances; s++ {
		extra := max(s/2-1, 0)
		distanceBase[s], distanceExtra[s] = uint16(next), uint16(extra)
		next += 1 << extra
	}
}

// distanceSymbol returns the symbol of distance - 1.
func distanceSymbol(d int) int {
	if d < 4 {
		return d
	}
	n := bits.Len(uint(d)) // 3 or more
	return 2*(n-1) + d>>(n-2)&1
}

var (
	errHeader = errors.New("bad code lengths")
	errCode   = errors.New("code that stands for nothing")
	errShort  = errors.New("stream is cut short")
)

// fast is how many bits of code a decoder looks up at once.
const fast = 10

// decoder finds symbols by their codes.
type decoder struct {
	table [1 << fast]uint16 // by the next bits: symbol << 4 | length of its code, or 0
	count [16]int           // codes by length
	// order has the symbols by code.
	order [literals + 2]uint16
}

// init makes d decode the canonical code with these lengths. A code with fewer bits than
// its lengths allow is refused, but for one of a single symbol or none.
func (d *decoder) init(lengths []uint8) error {
	d.count = [16]int{}
	for _, l := range lengths {
		d.count[l]++
	}
	used := len(lengths) - d.count[0]
	d.count[0] = 0
	room := 1
	var next, code [16]int // next place in order, and code, by length
	for l, at := 1, 0; l < 16; l++ {
		code[l] = (code[l-1] + d.count[l-1]) << 1
		next[l] = at
		at += d.count[l]
		if room = room<<1 - d.count[l]; room < 0 {
			return errHeader
		}
	}
	if room > 0 && used > 1 {
		return errHeader
	}
	clear(d.table[:])
	for s, l := range lengths {
		if l == 0 {
			continue
		}
		d.order[next[l]] = uint16(s)
		next[l]++
		if l <= fast {
			for i := reverse(code[l], int(l)); i < 1<<fast; i += 1 << l {
				d.table[i] = uint16(s)<<4 | uint16(l)
			}
		}
		code[l]++
	}
	return nil
}

// symbol takes a code of at most 15 bits, which were filled, and returns its symbol, or
// -1 if it has none.
func (d *decoder) symbol(r *bitReader) int {
	if e := d.table[r.buf&(1<<fast-1)]; e != 0 {
		r.skip(int(e & 15))
		return int(e >> 4)
	}
	code, first, at := 0, 0, 0
	for l := 1; l < 16; l++ {
		code = code<<1 | int(r.buf>>(l-1)&1)
		first <<= 1
		if code-first < d.count[l] {
			r.skip(l)
			return int(d.order[at+code-first])
		}
		first += d.count[l]
		at += d.count[l]
	}
	return -1
}

func reverse(code, n int) int { return int(bits.Reverse16(uint16(code)) >> (16 - n)) }

// lengths are the code lengths of a block.
type lengths struct {
	literal  [literals + 2]uint8 // the fixed code has two more symbols than are used
	distance [distances + 2]uint8
}

var fixed = func() (l lengths) {
	for i := range l.literal {
		switch {
		case i < 144:
			l.literal[i] = 8
		case i < 256:
			l.literal[i] = 9
		case i < 280:
			l.literal[i] = 7
		default:
			l.literal[i] = 8
		}
	}
	for i := range l.distance {
		l.distance[i] = 5
	}
	return l
}()

// headerOrder is the order in which a header has the lengths of the codes of lengths.
var headerOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// readHeader reads the code lengths of a block with dynamic codes.
func readHeader(r *bitReader) (l lengths, err error) {
	literal, distance, n := r.bits(5)+257, r.bits(5)+1, r.bits(4)+4
	if literal > literals || distance > distances {
		return l, errHeader
	}
	var inner [19]uint8
	for _, s := range headerOrder[:n] {
		inner[s] = uint8(r.bits(3))
	}
	var d decoder
	if err := d.init(inner[:]); err != nil {
		return l, err
	}
	var all [literals + distances]uint8
	for i := 0; i < literal+distance; {
		r.fill()
		s := d.symbol(r)
		if s < 0 {
			return l, errCode
		}
		if s < 16 {
			all[i] = uint8(s)
			i++
			continue
		}
		again, v := 0, uint8(0)
		switch s {
		case 16:
			if i == 0 {
				return l, errHeader
			}
			again, v = 3+r.take(2), all[i-1]
		case 17:
			again = 3 + r.take(3)
		case 18:
			again = 11 + r.take(7)
		}
		if again > literal+distance-i {
			return l, errHeader
		}
		for range again {
			all[i] = v
			i++
		}
	}
	if r.over() {
		return l, errShort
	}
	copy(l.literal[:], all[:literal])
	copy(l.distance[:], all[literal:literal+distance])
	if l.literal[endSymbol] == 0 {
		return l, errHeader
	}
	return l, nil
}

// codes are the codes that lengths make, their bits in the order in which they are
// written.
func codes(dst []uint16, lengths []uint8) {
	var count, next [16]int
	for _, l := range lengths {
		count[l]++
	}
	count[0] = 0
	for l := 1; l < 16; l++ {
		next[l] = (next[l-1] + count[l-1]) << 1
	}
	for s, l := range lengths {
		if l > 0 {
			dst[s] = uint16(reverse(next[l], int(l)))
			next[l]++
		}
	}
}
