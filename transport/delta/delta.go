// Package delta encodes a block as a difference to another, which the receiver holds:
// a changed page to its version before, a directory to what it was. It knows blocks
// as bytes only. Whether what comes out is the block that was wanted, the caller
// checks by its hash; so neither a wrong base nor a hostile delta can do harm.
//
// An Encoder makes deltas, Apply reads them. Blocks with DEFLATE streams in them, such as
// gzip files, are opened for it where that helps: the delta is one between their plain
// bytes, and says how the streams are made of those. See package deflate for how.
//
// # Format
//
// A delta is a run of operations, and then all literals, the bytes that the base does
// not have. An operation appends the next literals, and then a run of the base:
//
//	op       = head [skip] [copy]
//	head     = uvarint: literals << 2 | kind
//	skip     = uvarint, zigzag: if kind is 2
//	copy     = uvarint: if kind is not 3
//
// The run starts in relation to the cursor, which stands where the last one ended, and
// at 0 before the first:
//
//	kind 0   at the cursor: the literals, if any, were inserted
//	kind 1   beyond it by the number of literals: they replaced as many bytes
//	kind 2   beyond it by skip, which may be negative
//	kind 3   there is none: the operation has literals only
//
// An even copy is twice the length of the run. An odd one is twice the number of
// bytes between the run's end and the end of the base, plus 1; so a page that changed near
// its end has the same delta as its siblings of other lengths, and a batch of them
// compresses to little more than one.
//
// Every operation appends something: a run has at least one byte, and so has an
// operation of kind 3. The operations end where as many bytes follow as they have
// literals. The delta of an empty target is empty. Uvarints are unsigned LEB128 of
// at most 64 bits, zigzag as in Protocol Buffers.
//
// A delta that begins with a byte of 3, which would be an empty operation, is one between
// opened blocks:
//
//	delta  = 3 opens gap ... closes close ... ordinary delta
//	opens  = uvarint: streams of the base that are opened
//	gap    = uvarint: bytes between the last stream, or the start, and this one
//	closes = uvarint: streams that are closed
//	close  = gap of the opened block; uvarint: plain bytes; uvarint: size of recipe; recipe
//
// docs/protocol.md and docs/deltas.md have all of it, with examples.
package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrMalformed reports bytes that are no delta to the given base.
var ErrMalformed = errors.New("malformed delta")

var (
	errNumber  = errors.New("bad number")
	errShort   = errors.New("literals are cut short")
	errOutside = errors.New("run from outside of the base")
	errEmpty   = errors.New("empty operation")
)

// kind says where the run of an operation starts.
type kind int

const (
	kindInsert  kind = 0
	kindReplace kind = 1
	kindSkip    kind = 2
	kindLiteral kind = 3
)

// Apply appends to dst what delta makes of base, at most maxSize bytes. It fails with
// ErrMalformed if delta is none, reaches outside of base, makes more than maxSize bytes or
// takes more steps than Append allows itself; and takes no memory before that is known, but
// to open blocks: 100 MiB at worst, of two calls at a time. Beyond time in proportion to the
// lengths of all it takes 3 ms at worst if base has no streams, and 0.4 s for a MiB of them.
// dst must not overlap with the others.
func Apply(dst, delta, base []byte, maxSize int) ([]byte, error) {
	if len(delta) > 0 && delta[0] == openedMark {
		return applyOpened(dst, delta[1:], base, maxSize)
	}
	return apply(dst, delta, base, maxSize)
}

// apply applies an ordinary delta.
func apply(dst, delta, base []byte, maxSize int) ([]byte, error) {
	// Read twice: only the last operation tells where the literals start, and one
	// allocation of the right size is enough.
	size := 0
	r := reader{rest: delta, base: base}
	for r.more() {
		o, err := r.next()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if o.literals+len(o.run) > maxSize-size {
			return nil, fmt.Errorf("%w: makes over %d bytes", ErrMalformed, maxSize)
		}
		size += o.literals + len(o.run)
	}
	dst = slices.Grow(dst, size)
	literals := r.rest
	r = reader{rest: delta, base: base}
	for r.more() {
		o, err := r.next()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		dst = append(dst, literals[:o.literals]...)
		dst = append(dst, o.run...)
		literals = literals[o.literals:]
	}
	return dst, nil
}

// op appends the next literals, and then a run of the base.
type op struct {
	literals int // their number
	run      []byte
}

// reader reads operations.
type reader struct {
	rest     []byte // of the delta
	literals int    // of the operations that were read; they are at the end of rest
	base     []byte
	cursor   int // in base
}

func (r *reader) more() bool { return len(r.rest) > r.literals }

func (r *reader) next() (op, error) {
	head, err := r.uvarint()
	if err != nil {
		return op{}, err
	}
	var skip, copied uint64
	if kind(head&3) == kindSkip {
		if skip, err = r.uvarint(); err != nil {
			return op{}, err
		}
	}
	if kind(head&3) != kindLiteral {
		if copied, err = r.uvarint(); err != nil {
			return op{}, err
		}
	}
	// More bytes may have been read as numbers than the literals before leave.
	if room := len(r.rest) - r.literals; room < 0 || head>>2 > uint64(room) {
		return op{}, errShort
	}
	o := op{literals: int(head >> 2)}
	r.literals += o.literals

	start := int64(r.cursor)
	switch kind(head & 3) {
	case kindReplace:
		start += int64(o.literals)
	case kindSkip:
		start += int64(skip>>1) ^ -int64(skip&1) // negative if it overflows
	case kindLiteral:
		if o.literals == 0 {
			return op{}, errEmpty
		}
		return o, nil
	}
	if start < 0 || start > int64(len(r.base)) {
		return op{}, errOutside
	}
	run := r.base[start:]
	n := copied >> 1
	if copied&1 == 1 {
		n = uint64(len(run)) - n // over 2^63 if there are not as many
	}
	if n > uint64(len(run)) {
		return op{}, errOutside
	}
	if n == 0 {
		return op{}, errEmpty
	}
	o.run = run[:n]
	r.cursor = int(start) + len(o.run)
	return o, nil
}

func (r *reader) uvarint() (uint64, error) {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		return 0, errNumber
	}
	r.rest = r.rest[n:]
	return v, nil
}
