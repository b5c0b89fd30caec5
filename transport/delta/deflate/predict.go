package deflate

import (
	"encoding/binary"
	"math/bits"
)

// Model says which compressor a stream may have been made by: its level, 1 to 9, or 0 for
// an unknown one, and its memory << 4, which is 0 for gzip and zlib's memLevel, 1 to 9.
type Model uint8

const unknown Model = 0

func (m Model) level() int  { return int(m & 15) }
func (m Model) memory() int { return int(m >> 4) }
func (m Model) valid() bool {
	return m == unknown || m.level() >= 1 && m.level() <= 9 && m.memory() <= 9
}

// parameters are those of the search for matches.
type parameters struct {
	good    int // with a match before of that length, a quarter of chain is enough
	lazy    int // with one of that length, none is looked for; levels 1 to 3: see greedy
	nice    int // a match of that length is taken
	chain   int // so many places are looked at
	greedy  bool
	symbols int // in a block
	shift   uint
	mask    uint32 // of the hash of three bytes
	gzip    bool
}

var levels = [10]parameters{
	1: {good: 4, lazy: 4, nice: 8, chain: 4, greedy: true},
	2: {good: 4, lazy: 5, nice: 16, chain: 8, greedy: true},
	3: {good: 4, lazy: 6, nice: 32, chain: 32, greedy: true},
	4: {good: 4, lazy: 4, nice: 16, chain: 16},
	5: {good: 8, lazy: 16, nice: 32, chain: 32},
	6: {good: 8, lazy: 16, nice: 128, chain: 128},
	7: {good: 8, lazy: 32, nice: 128, chain: 256},
	8: {good: 32, lazy: 128, nice: 258, chain: 1024},
	9: {good: 32, lazy: 258, nice: 258, chain: 4096},
}

func (m Model) parameters() parameters {
	p := levels[m.level()]
	memory := m.memory()
	if memory == 0 {
		p.gzip = true
		p.symbols = 1<<15 - 1
		memory = 8
	} else {
		p.symbols = 1<<(memory+6) - 1
	}
	p.shift = uint(memory+7+2) / 3
	p.mask = 1<<(memory+7) - 1
	return p
}

const (
	// farthest is how far back the compressors look: not quite 32 KiB.
	farthest = window - maxMatch - minMatch - 1
	// tooFar is from where on three bytes are better written as literals.
	tooFar = 4096
	// ahead is how many bytes behind a place may have to do with what is predicted there.
	ahead = maxMatch + minMatch
)

// Run says that plain[From:To] of one stream is the same as what another, Of, has from At
// on; and if there is no such stream, up to where.
type Run struct {
	From, To int
	Of       *Stream
	At       int
}

// Runs returns the run at a place of the plain bytes. Places are asked for in order.
type Runs func(at int) Run

// found is a match that a search found, of less than minMatch if none.
type found struct{ length, distance int }

// predictor predicts the tokens of a stream, one after the other. It is told each as it is,
// after it was predicted.
type predictor struct {
	parameters
	model Model
	plain []byte
	pos   int // of the next token
	runs  Runs
	run   Run
	of    cursor
	// apart is where what a search would see began to be the same as in run.Of, which
	// is at its start too if apart is 0. What greedy searches see depends on the tokens.
	apart int

	head     [1 << 16]int32 // by hash: where it was last, + 1
	prev     [window]int32  // by place modulo window: where its hash was before, + 1
	inserted int            // places before are in head and prev
	// carry is the match at pos, if it was found when the token before was predicted. It
	// is known unless that token was taken from another stream.
	carry    found
	known    bool
	searched bool  // for the token that was predicted
	next     found // carry, if that is a literal
	clean    int   // where the last match ended: no carry leads across

	// Of the block:
	from            int // its start
	tokens, matches int
	literal         [literals]int32 // how often each symbol occurs
	distance        [distances]int32
	full            bool

	work int // steps of the search that may still be taken
}

func (p *predictor) reset(m Model, plain []byte, runs Runs, work int) {
	p.parameters, p.model = m.parameters(), m
	p.plain, p.runs, p.run, p.of = plain, runs, Run{}, cursor{}
	p.pos, p.inserted, p.clean, p.apart = 0, 0, 0, 0
	p.carry, p.known = found{}, true
	clear(p.head[:p.mask+1])
	p.work = work
	p.startBlock()
}

// release forgets what belongs to others.
func (p *predictor) release() {
	p.plain, p.runs, p.run, p.of = nil, nil, Run{}, cursor{}
}

func (p *predictor) startBlock() {
	clear(p.literal[:])
	clear(p.distance[:])
	p.literal[endSymbol] = 1
	p.from, p.tokens, p.matches, p.full = p.pos, 0, 0, false
}

// predict returns the token that is expected at pos.
func (p *predictor) predict() token {
	p.next, p.searched = found{}, false
	if p.full || p.pos == len(p.plain) {
		return end
	}
	if t, ok := p.reference(); ok {
		return t
	}
	if p.model == unknown {
		return literal
	}
	p.searched = true
	if p.greedy {
		if f := p.search(p.pos, minMatch-1); f.length > 0 {
			return match(f.length, f.distance)
		}
		return literal
	}
	if !p.known {
		// The few literals before may have been chosen for a match that is here.
		p.carry = found{}
		for at := max(p.clean, p.pos-8, p.inserted); at < p.pos; at++ {
			_, p.carry = p.lazily(at, p.carry)
		}
	}
	var t token
	t, p.next = p.lazily(p.pos, p.carry)
	return t
}

// lazily returns the token at a place, where a match was found already, or not; and if it
// is a literal because the match at the next place is longer, that.
func (p *predictor) lazily(at int, f found) (token, found) {
	if f.length == 0 {
		f = p.search(at, minMatch-1)
	}
	if f.length == 0 {
		return literal, found{}
	}
	if f.length < p.lazy {
		if next := p.search(at+1, f.length); next.length > 0 {
			return literal, next
		}
	}
	return match(f.length, f.distance), found{}
}

// reference returns the token that the other stream has where it is the same.
func (p *predictor) reference() (token, bool) {
	r := &p.run
	if p.runs == nil || !p.inRun() {
		return 0, false
	}
	if p.model != unknown {
		if p.apart > 0 && p.pos-p.apart < window {
			return 0, false
		}
		if r.To-p.pos < ahead && (r.To < len(p.plain) || r.At+r.To-r.From < r.Of.plain) {
			return 0, false
		}
	}
	t, ok := p.of.token(r.Of, r.At+p.pos-r.From)
	if !ok || t.length() > r.To-p.pos {
		return 0, false
	}
	if d := t.distance(); d > 0 && p.model == unknown {
		if d > p.pos || string(p.plain[p.pos-d:][:t.length()]) != string(p.plain[p.pos:][:t.length()]) {
			return 0, false
		}
	}
	return t, true
}

// inRun finds the run at pos, and tells whether there is one.
func (p *predictor) inRun() bool {
	if p.pos >= p.run.To {
		p.run = p.runs(p.pos)
		if p.run.From > 0 || p.run.At > 0 {
			p.apart = max(p.apart, p.run.From, 1)
		}
	}
	return p.run.Of != nil
}

// accept takes the token that is at pos. It is within the plain bytes, and so is its
// distance.
func (p *predictor) accept(t token) {
	n := t.length()
	switch d := t.distance(); {
	case n == 0:
		return // the caller starts a block
	case d == 0:
		p.literal[p.plain[p.pos]]++
	default:
		p.literal[endSymbol+1+int(lengthSymbol[n-minMatch])]++
		p.distance[distanceSymbol(d-1)]++
		p.matches++
	}
	p.tokens++
	p.full = p.blockIsFull()
	if p.greedy && p.runs != nil && p.inRun() {
		if of, _ := p.of.token(p.run.Of, p.run.At+p.pos-p.run.From); of != t {
			p.apart = p.pos + n
		}
	}
	if d := t.distance(); d == 0 {
		p.pos++
		p.carry, p.known = p.next, p.searched
		return
	}
	if p.greedy && n > p.lazy {
		p.insert(p.pos + 1)
		p.inserted = p.pos + n
	}
	p.skip(n)
}

// skip goes on behind n bytes, a match or a stored block.
func (p *predictor) skip(n int) {
	p.pos += n
	p.clean, p.carry, p.known = p.pos, found{}, true
}

// blockIsFull says whether the block ends behind the token at pos, which was counted.
func (p *predictor) blockIsFull() bool {
	if p.model == unknown {
		return false
	}
	if p.tokens == p.symbols {
		return true
	}
	if !p.gzip || p.level() < 3 || p.tokens&0xfff != 0 {
		return false
	}
	// gzip ends a block that is compressed well, so that the next one adapts.
	out := p.tokens * 8
	for s, n := range p.distance {
		out += int(n) * (5 + int(distanceExtra[s]))
	}
	in := p.pos - p.from
	if !p.greedy {
		in++
	}
	return p.matches < p.tokens/2 && out/8 < in/2
}

func (p *predictor) level() int { return p.model.level() }

// hash is that of the three bytes at a place.
func (p *predictor) hash(at int) uint32 {
	b := p.plain[at : at+3 : at+3]
	return (uint32(b[0])<<(2*p.shift) ^ uint32(b[1])<<p.shift ^ uint32(b[2])) & p.mask
}

// insert makes the places before at known to searches.
func (p *predictor) insert(at int) {
	if at-p.inserted > window {
		p.inserted = at - window // nobody looks farther
	}
	for last := min(at, len(p.plain)-minMatch+1); p.inserted < last; p.inserted++ {
		h := p.hash(p.inserted)
		p.prev[uint(p.inserted)%window] = p.head[h]
		p.head[h] = int32(p.inserted + 1)
	}
}

// search returns the longest match at a place that is longer than before, as far as the
// compressor would find it.
func (p *predictor) search(at, before int) found {
	most := min(len(p.plain)-at, maxMatch)
	if most < minMatch || before >= most {
		return found{}
	}
	p.insert(at)
	chain := p.chain
	if before >= p.good {
		chain /= 4
	}
	nice := min(p.nice, most)
	target := p.plain[at : at+most]
	limit := max(at-farthest, 0) // the first byte is never found
	place := int(p.head[p.hash(at)]) - 1
	if place < limit || place == 0 {
		return found{} // also if there is none
	}
	best := found{length: before}
	// What is longer has these two bytes at its end.
	last := binary.LittleEndian.Uint16(target[before-1:])
	plain := p.plain
	for {
		p.work--
		if binary.LittleEndian.Uint16(plain[place+best.length-1:]) == last && plain[place] == target[0] {
			n := same(plain[place:], target)
			p.work -= n / 8
			if n > best.length {
				best = found{n, at - place}
				if n >= nice {
					break
				}
				last = binary.LittleEndian.Uint16(target[n-1:])
			}
		}
		place = int(p.prev[uint(place)%window]) - 1
		if chain--; chain == 0 || place <= limit {
			break
		}
	}
	if best.distance == 0 || !p.greedy && best.length == minMatch && best.distance > tooFar {
		return found{}
	}
	return best
}

// same returns how many bytes at the start of a and b are the same. b is not longer.
func same(a, b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		if diff := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); diff != 0 {
			return i + bits.TrailingZeros64(diff)/8
		}
	}
	for i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}
