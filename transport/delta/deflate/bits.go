package deflate

import "encoding/binary"

// bitReader reads bits as DEFLATE packs them, the lowest of a byte first. Behind the end
// it reads zeros; over tells that it did.
type bitReader struct {
	src   []byte
	next  int    // byte of src that is read next
	buf   uint64 // bits that were read and not taken
	n     int    // their number
	short int    // bits taken that are not there
}

// newBitReader reads from bit start on.
func newBitReader(src []byte, start int) bitReader {
	r := bitReader{src: src, next: start / 8}
	r.bits(start % 8)
	return r
}

// fill makes at least 56 bits available, or all that are left.
func (r *bitReader) fill() {
	if r.next+8 <= len(r.src) {
		r.buf |= binary.LittleEndian.Uint64(r.src[r.next:]) << r.n
		r.next += (63 - r.n) >> 3
		r.n |= 56
		return
	}
	for r.n <= 56 && r.next < len(r.src) {
		r.buf |= uint64(r.src[r.next]) << r.n
		r.next++
		r.n += 8
	}
}

// skip takes n bits that fill made available.
func (r *bitReader) skip(n int) {
	r.buf >>= n
	if r.n -= n; r.n < 0 {
		r.short -= r.n
		r.n = 0
	}
}

// take takes n bits that fill made available.
func (r *bitReader) take(n int) int {
	v := int(r.buf & (1<<n - 1))
	r.skip(n)
	return v
}

// bits fills, and takes up to 32 bits.
func (r *bitReader) bits(n int) int {
	r.fill()
	return r.take(n)
}

func (r *bitReader) over() bool { return r.short > 0 }

// offset is how many bits were taken.
func (r *bitReader) offset() int { return r.next*8 - r.n }

// bitWriter appends bits to out.
type bitWriter struct {
	out []byte
	buf uint64
	n   int // bits in buf, below 32
}

// bits writes the n lower bits of v, up to 32, which has no others.
func (w *bitWriter) bits(v uint32, n int) {
	w.buf |= uint64(v) << w.n
	if w.n += n; w.n >= 32 {
		w.out = binary.LittleEndian.AppendUint32(w.out, uint32(w.buf))
		w.buf >>= 32
		w.n -= 32
	}
}

// align ends the last byte with bits of fill, from its n-th on, if it is not full.
func (w *bitWriter) align(fill byte) {
	for w.n > 0 {
		b := byte(w.buf)
		if w.n < 8 {
			b |= fill << w.n
		}
		w.out = append(w.out, b)
		w.buf >>= 8
		w.n = max(w.n-8, 0)
	}
	w.buf = 0
}

// copy writes n bits of src, from bit start on.
func (w *bitWriter) copy(src []byte, start, n int) {
	r := newBitReader(src, start)
	for n > 0 {
		k := min(n, 32)
		w.bits(uint32(r.bits(k)), k)
		n -= k
	}
}
