// Package deflate takes compressed streams (RFC 1951, as in gzip, zlib and ZIP) apart, so
// that they can be put together again, bit by bit, from their plain bytes and a recipe. For
// a stream of gzip or zlib the recipe has a few bytes: what the compressor decides is
// predicted, by the same search for matches, and the recipe has what comes otherwise.
//
// Where the plain bytes are the same as those of another stream, which both sides have,
// the decisions are expected to be those of that stream; this is faster than a search, and
// does for other compressors too.
//
// Inflate reads a stream, Describe makes a recipe for it, Restore follows one.
//
// # Format
//
// A recipe is
//
//	recipe     = model fill correction ...
//	model      = 1 byte: memory << 4 | level, or 0 if nothing is searched for
//	fill       = 1 byte: the bits of the stream's last byte that are behind its end
//	correction = uvarint: predictions that were right since the last one << 2 | kind
//	             [details]
//
// The tokens of a block are predicted one by one, its end too, then its codes, and
// whether it is the last block. A correction of a token has as kind
//
//	0  it is a literal
//	1  it is a match; 1 byte: its length - 3; uvarint: its distance - 1
//	2  the block ends
//	3  a stored block is here; no token of the block came before; uvarint: its length << 2 | more
//
// and one of the codes
//
//	0  they are as predicted; 1 byte: more
//	1  they are the fixed ones; 1 byte: more
//	2  they are the dynamic ones that were predicted; 1 byte: more
//	3  they are others; 1 byte: more; and the code lengths as the stream has them, filled
//	   up to whole bytes
//
// More is 0 if the block is the last one where the plain bytes end, and only there; 1 if
// they end but it is not the last one, and the next is not known; 2 if they end and another
// block follows.
package deflate

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed reports bytes that are no recipe for the plain bytes.
var ErrMalformed = errors.New("malformed recipe")

var (
	errCorrection = errors.New("bad correction")
	errTokens     = errors.New("block of too many symbols")
	errWork       = errors.New("takes too much work")
	errRest       = errors.New("bytes are left over")
)

const (
	kindLiteral = 0
	kindMatch   = 1
	kindEnd     = 2
	kindStored  = 3

	codesPredicted = 0
	codesFixed     = 1
	codesDynamic   = 2
	codesOther     = 3

	moreNone  = 0
	moreCut   = 1
	moreEmpty = 2

	// maxBlock is how many tokens a block has at most. Compressors stop far below.
	maxBlock = 1 << 20
)

// corrections reads those of a recipe. It has read the head of the next one.
type corrections struct {
	rest []byte
	any  bool   // there is a next one
	gap  uint64 // predictions before it
	kind int
}

// advance reads the next head.
func (c *corrections) advance() error {
	if c.any = len(c.rest) > 0; !c.any {
		return nil
	}
	v, err := c.uvarint()
	c.gap, c.kind = v>>2, int(v&3)
	return err
}

// due tells whether the prediction that was made is to be corrected.
func (c *corrections) due() bool {
	if !c.any {
		return false
	}
	if c.gap == 0 {
		return true
	}
	c.gap--
	return false
}

// token reads the details of a token at a place of size plain bytes, and the next head.
func (c *corrections) token(at, size int) (t token, err error) {
	switch c.kind {
	case kindLiteral:
		if t = literal; at == size {
			return 0, errCorrection
		}
	case kindMatch:
		n, err := c.byte()
		if err != nil {
			return 0, err
		}
		d, err := c.uvarint()
		if err != nil {
			return 0, err
		}
		length := int(n) + minMatch
		if length > size-at || d >= window || int(d) >= at {
			return 0, errCorrection
		}
		t = match(length, int(d)+1)
	case kindEnd:
		t = end
	}
	return t, c.advance()
}

// more says what follows a block behind which the plain bytes end, or do not.
func (c *corrections) more(v byte, ends bool) (final, goesOn bool, err error) {
	switch {
	case v == moreNone:
		return ends, !ends, nil
	case v == moreCut && ends:
		return false, false, nil
	case v == moreEmpty && ends:
		return false, true, nil
	}
	return false, false, errCorrection
}

func (c *corrections) byte() (byte, error) {
	if len(c.rest) == 0 {
		return 0, errCorrection
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return b, nil
}

func (c *corrections) uvarint() (uint64, error) {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 {
		return 0, errCorrection
	}
	c.rest = c.rest[n:]
	return v, nil
}

// recipe is one that is made.
type recipe struct {
	out   []byte
	right uint64 // predictions since the last correction
}

// correct begins a correction.
func (r *recipe) correct(kind int) {
	r.out = binary.AppendUvarint(r.out, r.right<<2|uint64(kind))
	r.right = 0
}

func (r *recipe) token(t token) {
	switch d := t.distance(); {
	case t == end:
		r.correct(kindEnd)
	case d == 0:
		r.correct(kindLiteral)
	default:
		r.correct(kindMatch)
		r.out = append(r.out, byte(t.length()-minMatch))
		r.out = binary.AppendUvarint(r.out, uint64(d-1))
	}
}
