package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"sync"

	"pollux/transport/delta/deflate"
)

const (
	// openedMark is the first byte of a delta of opened blocks. An ordinary one does not
	// begin with it: it would be an operation that appends nothing.
	openedMark = 0<<2 | byte(kindLiteral)
	// maxOpened is how many bytes an opened block has at most. Two of them, and what is
	// known about their streams, take 100 MiB at worst, and ten times the blocks as a rule.
	maxOpened = 16 << 20
	// minOpen is how long an ordinary delta is if one of opened blocks is tried.
	minOpen = 128
	// minStream is how long a stream is that is opened; one that is cut short, which may
	// be something else, is longer.
	minStream = 64
	minCut    = 1 << 10
	// maxStreams is how many streams are opened in a block. maxFailed and maxFailedBytes
	// bound what an Encoder tries in vain.
	maxStreams     = 256
	maxFailed      = 1 << 12
	maxFailedBytes = 32 << 20
	// minWork and streamWork bound the steps in which the streams of a block are closed: so
	// many, and so many for each byte of the base's streams. A step takes some 3 ns. Versions of
	// real pages and indexes packed by gzip -9 take up to 80 for a byte, with few exceptions.
	minWork    = 1 << 19
	streamWork = 80
	// minGuesses is how many more steps than to close them may be taken to guess how the streams
	// of a block were made. Few take a third of that, of the first stream mostly.
	minGuesses = 1 << 24
)

// encoding and applying bound the memory for opened blocks. Who is sent deltas that take long
// makes its own in no more time for that.
var encoding, applying = make(chan struct{}, 2), make(chan struct{}, 2)

var codecs = sync.Pool{New: func() any { return new(deflate.Codec) }}

var (
	errStreams = errors.New("streams outside of the block")
	errLarge   = errors.New("too large when opened")
)

// opened is a block with the plain bytes of the streams in it in their places.
type opened struct {
	bytes   []byte
	streams []stream
}

// stream is one of an opened block, and where it is in that and in the block.
type stream struct {
	*deflate.Stream
	start, end int
	source     int
}

// add opens the stream at source, which is in block behind those that are open. If there is
// none, it tells how many bytes were made in vain.
func (o *opened) add(block []byte, source int) (wasted int, err error) {
	closed := len(o.bytes)
	o.bytes = append(o.bytes, block[o.size():source]...)
	start := len(o.bytes)
	if start > maxOpened {
		o.bytes = o.bytes[:closed]
		return 0, errLarge
	}
	out, s, err := deflate.Inflate(o.bytes, block[source:], maxOpened-start)
	o.bytes = out
	if err != nil {
		o.bytes = o.bytes[:closed]
		return len(out) - start, err
	}
	o.streams = append(o.streams, stream{s, start, len(out), source})
	return 0, nil
}

// drop closes the stream that was opened last.
func (o *opened) drop() {
	last := o.streams[len(o.streams)-1]
	o.streams = o.streams[:len(o.streams)-1]
	o.bytes = o.bytes[:last.start-(last.source-o.size())]
}

// size is how many bytes of the block are opened.
func (o *opened) size() int {
	if len(o.streams) == 0 {
		return 0
	}
	last := o.streams[len(o.streams)-1]
	return last.source + last.Size()
}

// work is how many steps may be taken to close the streams of a block whose base o is. What
// that takes too much for, is small beside the base as a rule, and sent as it is.
func (o *opened) work() int {
	n := minWork
	for _, s := range o.streams {
		n += streamWork * s.Size()
	}
	return n
}

// finish adds the rest of the block.
func (o *opened) finish(block []byte) error {
	o.bytes = append(o.bytes, block[o.size():]...)
	if len(o.bytes) > maxOpened {
		return errLarge
	}
	return nil
}

// openAll opens the streams of a block that are worth it, but for those at the places in
// without. It returns nil if there are none.
func openAll(block []byte, without map[int]bool) *opened {
	o := &opened{bytes: make([]byte, 0, min(4*len(block), maxOpened))}
	failed, wasted := 0, 0
	for at := 0; len(o.streams) < maxStreams && failed < maxFailed && wasted < maxFailedBytes; {
		source := findStream(block, at)
		if source < 0 {
			break
		}
		at = source
		if without[source] {
			continue
		}
		n, err := o.add(block, source)
		if err != nil {
			failed++
			wasted += n
			continue
		}
		s := o.streams[len(o.streams)-1]
		if s.Size() < minStream || s.Size() < minCut && !s.Complete() {
			failed++
			wasted += s.Plain()
			o.drop()
			continue
		}
		at = o.size()
	}
	if len(o.streams) == 0 || o.finish(block) != nil {
		return nil
	}
	return o
}

// findStream returns where the next stream in block may start whose format says so at or
// behind from; or -1.
func findStream(block []byte, from int) int {
	for i := from; i < len(block)-2; i++ {
		first := block[i]
		if first != 0x78 && first != 0x1f && first != 'P' {
			continue
		}
		b, n := block[i:], 0
		switch second := b[1]; {
		case first == 0x78 && second&0x20 == 0 && (0x7800|int(second))%31 == 0:
			n = 2 // zlib, with 32 KiB and without a dictionary, as in PNG and WOFF
		case first == 0x1f && second == 0x8b && b[2] == 8:
			n = gzipHeader(b)
		case first == 'P' && second == 'K' && len(b) >= 30 && b[2] == 3 && b[3] == 4 && b[8] == 8:
			n = 30 + int(binary.LittleEndian.Uint16(b[26:])) + int(binary.LittleEndian.Uint16(b[28:])) // ZIP
		}
		if n > 0 && n < len(b) && i+n >= from {
			return i + n
		}
	}
	return -1
}

// gzipHeader returns how long the header is that b starts with, or 0 if it is cut.
func gzipHeader(b []byte) int {
	if len(b) < 10 {
		return 0
	}
	flags, n := b[3], 10
	if flags&4 != 0 { // extra
		if len(b) < n+2 {
			return 0
		}
		n += 2 + int(binary.LittleEndian.Uint16(b[n:]))
	}
	for _, flag := range []byte{8, 16} { // name, comment
		if flags&flag == 0 {
			continue
		}
		if n > len(b) {
			return 0
		}
		end := bytes.IndexByte(b[n:], 0)
		if end < 0 {
			return 0
		}
		n += end + 1
	}
	if flags&2 != 0 { // checksum of the header
		n += 2
	}
	return n
}

// appendOpened appends to dst a delta between opened blocks. It fails if there is none
// that has less than limit bytes.
func (e *Encoder) appendOpened(dst, base, target []byte, limit int) ([]byte, bool) {
	if findStream(base, 0) < 0 || findStream(target, 0) < 0 {
		return dst, false
	}
	encoding <- struct{}{}
	defer func() { <-encoding }()
	from := openAll(base, nil)
	if from == nil {
		return dst, false
	}
	if e.codec == nil {
		e.codec = new(deflate.Codec)
	}
	// A stream that cannot be described stays closed, which changes what is said of the
	// others.
	without := map[int]bool{}
	models := map[int]deflate.Model{} // of the streams at these places, guessed once
	var likely deflate.Model
	e.codec.Guesses = minGuesses + from.work()
	for round := range 3 {
		to := openAll(target, without)
		if to == nil {
			return dst, false
		}
		plain := new(Encoder).append(nil, from.bytes, to.bytes)
		if len(plain) >= limit {
			return dst, false
		}
		recipes, n := make([][]byte, len(to.streams)), len(without)
		e.codec.Work = from.work()
		copies := newCopies(plain, from)
		// What the stream took that took most beyond what one of its size brings, and where it is.
		most, worst := 0, 0
		for i, s := range to.streams {
			content := to.bytes[s.start:s.end]
			m, ok := models[s.source]
			if !ok {
				m = e.codec.Guess(s.Stream, content, likely)
				models[s.source], likely = m, m
			}
			left := e.codec.Work
			recipe, ok := e.codec.Describe(nil, m, s.Stream, content, copies.between(s.start, s.end))
			recipes[i] = recipe
			spent := e.codec.Work < 0
			beyond := left - max(e.codec.Work, 0) - streamWork*s.Size()
			switch {
			case ok:
				if beyond > most {
					most, worst = beyond, s.source
				}
			case !spent:
				without[s.source] = true
			case round > 0:
				// It is not one stream alone. What came before takes few enough.
				for _, s := range to.streams[i:] {
					without[s.source] = true
				}
			case len(without) > n:
				// Those that are closed now took their part.
			case most > max(beyond, 0):
				without[worst] = true
			default:
				without[s.source] = true
			}
			if spent {
				break
			}
		}
		if len(without) > n {
			continue
		}
		// Nobody is told what was not proved.
		e.codec.Work = from.work()
		copies = newCopies(plain, from)
		for i, s := range to.streams {
			content := to.bytes[s.start:s.end]
			got, err := e.codec.Restore(nil, recipes[i], content, copies.between(s.start, s.end), s.Size())
			if err != nil || !bytes.Equal(got, target[s.source:][:s.Size()]) {
				without[s.source] = true
			}
		}
		if len(without) > n {
			continue
		}
		start := len(dst)
		dst = append(dst, openedMark)
		dst = binary.AppendUvarint(dst, uint64(len(from.streams)))
		at := 0
		for _, s := range from.streams {
			dst = binary.AppendUvarint(dst, uint64(s.source-at))
			at = s.source + s.Size()
		}
		dst = binary.AppendUvarint(dst, uint64(len(to.streams)))
		at = 0
		for i, s := range to.streams {
			dst = binary.AppendUvarint(dst, uint64(s.start-at))
			dst = binary.AppendUvarint(dst, uint64(s.Plain()))
			dst = binary.AppendUvarint(dst, uint64(len(recipes[i])))
			dst = append(dst, recipes[i]...)
			at = s.end
		}
		dst = append(dst, plain...)
		return dst, len(dst)-start < limit
	}
	return dst, false
}

// copies finds in what an ordinary delta makes of an opened block the runs of its streams. It
// reads the delta once, whatever is asked.
type copies struct {
	reader
	from *opened
	last op
	made int // bytes, up to the end of last
}

func newCopies(delta []byte, from *opened) *copies {
	return &copies{reader: reader{rest: delta, base: from.bytes}, from: from}
}

// between returns the runs between two places. It is called for one stream after the other.
func (c *copies) between(start, end int) deflate.Runs {
	return func(at int) deflate.Run {
		at += start
		for c.made <= at {
			if !c.more() {
				return deflate.Run{From: at - start, To: end - start}
			}
			c.last, _ = c.next() // it was read before
			c.made += c.last.literals + len(c.last.run)
		}
		o, made, from := c.last, c.made, c.from
		// o has copied base[c.cursor-len(o.run):c.cursor] to made-len(o.run).
		shift := c.cursor - made
		left, right := max(made-len(o.run), start), min(made, end)
		if at < left {
			return deflate.Run{From: at - start, To: left - start}
		}
		i := sort.Search(len(from.streams), func(i int) bool { return from.streams[i].end > at+shift })
		if i == len(from.streams) {
			return deflate.Run{From: at - start, To: right - start}
		}
		s := from.streams[i]
		if at+shift < s.start {
			return deflate.Run{From: at - start, To: min(right, s.start-shift) - start}
		}
		left, right = max(left, s.start-shift), min(right, s.end-shift)
		return deflate.Run{From: left - start, To: right - start, Of: s.Stream, At: left + shift - s.start}
	}
}

// applyOpened appends what a delta between opened blocks makes, which is without its mark.
func applyOpened(dst, delta, base []byte, maxSize int) ([]byte, error) {
	applying <- struct{}{}
	defer func() { <-applying }()
	codec := codecs.Get().(*deflate.Codec)
	defer codecs.Put(codec)
	out, err := restoreOpened(dst, delta, base, maxSize, codec)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return out, nil
}

// closing says how a stream of the target is closed.
type closing struct {
	gap, plain int
	recipe     []byte
}

func restoreOpened(dst, delta, base []byte, maxSize int, codec *deflate.Codec) ([]byte, error) {
	r := reader{rest: delta}
	from := &opened{bytes: make([]byte, 0, min(4*len(base), maxOpened))}
	n, err := r.length()
	if err != nil {
		return nil, err
	}
	if n > maxStreams {
		return nil, errStreams
	}
	for range n {
		gap, err := r.length()
		if err != nil {
			return nil, err
		}
		if gap > len(base)-from.size() {
			return nil, errStreams
		}
		if _, err := from.add(base, from.size()+gap); err != nil {
			return nil, err
		}
	}
	if err := from.finish(base); err != nil {
		return nil, err
	}

	if n, err = r.length(); err != nil {
		return nil, err
	}
	if n > maxStreams {
		return nil, errStreams
	}
	closings := make([]closing, n)
	plain := 0
	for i := range closings {
		c := &closings[i]
		for _, v := range []*int{&c.gap, &c.plain, &n} {
			if *v, err = r.length(); err != nil {
				return nil, err
			}
		}
		if n > len(r.rest) {
			return nil, errShort
		}
		c.recipe, r.rest = r.rest[:n], r.rest[n:]
		plain += c.plain
	}
	if codec.Work = from.work(); plain > codec.Work {
		return nil, errLarge
	}
	delta = r.rest
	// What is not in a stream is in the block as it is.
	to, err := apply(nil, delta, from.bytes, min(maxSize+plain, maxOpened))
	if err != nil {
		return nil, err
	}

	copies := newCopies(delta, from)
	most, at := len(dst)+maxSize, 0
	for _, c := range closings {
		if c.gap > len(to)-at || c.plain > len(to)-at-c.gap {
			return nil, errStreams
		}
		if c.gap > most-len(dst) {
			return nil, errLarge
		}
		dst = append(dst, to[at:][:c.gap]...)
		at += c.gap
		end := at + c.plain
		dst, err = codec.Restore(dst, c.recipe, to[at:end:end], copies.between(at, end), most-len(dst))
		if err != nil {
			return nil, err
		}
		at = end
	}
	if len(to)-at > most-len(dst) {
		return nil, errLarge
	}
	return append(dst, to[at:]...), nil
}

// length reads a number of bytes or the like.
func (r *reader) length() (int, error) {
	v, err := r.uvarint()
	if err == nil && v > maxOpened {
		return 0, errLarge
	}
	return int(v), err
}
