package deflate

import (
	"errors"
	"slices"
	"sort"
)

// token is a literal, or a match, or the end of a block: its length << 16 and its distance.
// Literals have no distance, and ends no length. In a Stream, a stored block is a token
// without distance too, but longer than a literal, if it is.
type token uint32

const (
	literal token = 1 << 16
	end     token = 0
)

func match(length, distance int) token { return token(length<<16 | distance) }

func (t token) length() int   { return int(t >> 16) }
func (t token) distance() int { return int(t & 0xffff) }

// form is how the bytes of a block are written.
type form uint8

const (
	stored form = iota
	fixedCodes
	dynamicCodes
)

// block is one of a Stream.
type block struct {
	form   form
	final  bool
	tokens int // of the stream, up to the end of the block
	// header is where the code lengths of a dynamic block are, in bits of the source.
	header, headerBits int
}

// Stream is what a DEFLATE stream was made of, but for its plain bytes.
type Stream struct {
	src    []byte
	plain  int // bytes
	size   int // bytes of src
	tokens []token
	blocks []block
	marks  []int32 // plain position of each markEvery-th token
	fill   byte    // bits of the last byte that are not the stream's
}

const (
	markEvery = 256
	// maxTokens bounds the memory of a Stream to 16 MiB.
	maxTokens = 4 << 20
)

var errTooLarge = errors.New("stream is too large")

// Size is how many bytes of the source the stream takes. The last one may be shared with
// what follows.
func (s *Stream) Size() int { return s.size }

// Plain is how many bytes it stands for.
func (s *Stream) Plain() int { return s.plain }

// Complete tells whether the stream's last block is there.
func (s *Stream) Complete() bool { return s.blocks[len(s.blocks)-1].final }

// Inflate appends to dst the plain bytes of the stream that src starts with, at most max.
// If src is cut short, or damaged, the stream is what its blocks before are: it fails
// only if there are none, or if those make more than max bytes, and then returns what was
// made until then too.
func Inflate(dst, src []byte, max int) ([]byte, *Stream, error) {
	s := &Stream{src: src}
	r := bitReader{src: src}
	var literal, distance decoder
	start := len(dst)
	for {
		kept, at := len(dst), r.offset()
		b, err := s.inflateBlock(&dst, start, max, &r, &literal, &distance)
		if err != nil {
			if len(s.blocks) == 0 || errors.Is(err, errTooLarge) {
				return dst, nil, err
			}
			s.tokens = s.tokens[:s.blocks[len(s.blocks)-1].tokens]
			dst = dst[:kept]
			s.finish(at)
			break
		}
		s.blocks = append(s.blocks, b)
		if b.final {
			s.finish(r.offset())
			break
		}
	}
	s.plain = len(dst) - start
	return dst, s, nil
}

// finish sets what is known when the stream ends at a bit.
func (s *Stream) finish(offset int) {
	s.size = (offset + 7) / 8
	if n := offset % 8; n > 0 {
		s.fill = s.src[offset/8] >> n
	}
	for i, at := 0, 0; i < len(s.tokens); i++ {
		if i%markEvery == 0 {
			s.marks = append(s.marks, int32(at))
		}
		at += s.tokens[i].length()
	}
}

func (s *Stream) inflateBlock(dst *[]byte, start, max int, r *bitReader, lit, dist *decoder) (block, error) {
	b := block{final: r.bits(1) == 1, form: form(r.bits(2))}
	switch b.form {
	case stored:
		if pad := -r.offset() & 7; r.bits(pad) != 0 {
			return b, errHeader // possible, but nobody writes it
		}
		n := r.bits(16)
		if r.bits(16) != n^0xffff {
			return b, errHeader
		}
		at := r.offset() / 8
		if r.over() || n > len(s.src)-at {
			return b, errShort
		}
		if n > max-(len(*dst)-start) || len(s.tokens)+1 > maxTokens {
			return b, errTooLarge
		}
		*dst = append(*dst, s.src[at:at+n]...)
		*r = bitReader{src: s.src, next: at + n}
		s.tokens = append(s.tokens, token(n<<16))
		b.tokens = len(s.tokens)
		return b, nil
	case fixedCodes:
		if lit.init(fixed.literal[:]) != nil || dist.init(fixed.distance[:]) != nil {
			panic("deflate: fixed codes")
		}
	case dynamicCodes:
		b.header = r.offset()
		l, err := readHeader(r)
		if err != nil {
			return b, err
		}
		b.headerBits = r.offset() - b.header
		if err := lit.init(l.literal[:literals]); err != nil {
			return b, err
		}
		if err := dist.init(l.distance[:distances]); err != nil {
			return b, err
		}
	default:
		return b, errHeader
	}

	out, tokens := *dst, s.tokens
	defer func() { *dst, s.tokens = out, tokens }()
	for {
		r.fill()
		sym := lit.symbol(r)
		if len(tokens) == maxTokens {
			return b, errTooLarge
		}
		if sym < 256 {
			if sym < 0 {
				return b, errCode
			}
			if r.over() {
				return b, errShort
			}
			if len(out)-start == max {
				return b, errTooLarge
			}
			out = append(out, byte(sym))
			tokens = append(tokens, literal)
			continue
		}
		if sym == endSymbol {
			break
		}
		if sym >= literals {
			return b, errCode
		}
		sym -= endSymbol + 1
		n := minMatch + int(lengthBase[sym]) + r.take(int(lengthExtra[sym]))
		if n == maxMatch && sym != len(lengthBase)-1 {
			return b, errCode // possible, but nobody writes it
		}
		sym = dist.symbol(r)
		if sym < 0 || sym >= distances {
			return b, errCode
		}
		d := 1 + int(distanceBase[sym]) + r.take(int(distanceExtra[sym]))
		if r.over() {
			return b, errShort
		}
		from := len(out) - d
		if from < start {
			return b, errCode
		}
		if n > max-(len(out)-start) {
			return b, errTooLarge
		}
		tokens = append(tokens, match(n, d))
		if d >= n {
			out = append(out, out[from:from+n]...)
			continue
		}
		out = slices.Grow(out, n)
		for i := range n {
			out = append(out, out[from+i])
		}
	}
	if r.over() {
		return b, errShort
	}
	tokens = append(tokens, end)
	b.tokens = len(tokens)
	return b, nil
}

// cursor finds the token that starts at a place of the plain bytes.
type cursor struct {
	s     *Stream
	index int // of a token
	at    int // where it starts
}

// token returns the token of s that starts at position at, if one does and is no end.
// Asking for one place after the other is fast.
func (c *cursor) token(s *Stream, at int) (token, bool) {
	if c.s != s || at < c.at || at-c.at > 2*markEvery {
		i := max(sort.Search(len(s.marks), func(i int) bool { return int(s.marks[i]) > at })-1, 0)
		*c = cursor{s: s}
		if i < len(s.marks) {
			c.index, c.at = i*markEvery, int(s.marks[i])
		}
	}
	for c.index < len(s.tokens) {
		t := s.tokens[c.index]
		n := t.length()
		if c.at == at && n > 0 {
			return t, t == literal || t.distance() > 0
		}
		if c.at+n > at {
			return 0, false
		}
		c.at += n
		c.index++
	}
	return 0, false
}
