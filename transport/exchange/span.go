package exchange

import "math/bits"

// span is a run of leaves, by their numbers.
type span struct{ first, n int }

func (s span) end() int { return s.first + s.n }

// cut returns the part of s that is in t, which may be empty.
func (s span) cut(t span) span {
	first := max(s.first, t.first)
	return span{first, max(min(s.end(), t.end())-first, 0)}
}

// from returns the part of s from a leaf of it on, which may be empty.
func (s span) from(leaf int) span { return span{leaf, s.end() - leaf} }

// leafSet is a set of leaves, a bit each. The zero value is empty.
type leafSet struct {
	words []uint64
	n     int
}

func (s *leafSet) has(leaf int) bool {
	return leaf/64 < len(s.words) && s.words[leaf/64]>>(leaf%64)&1 != 0
}

// add adds a leaf and says whether it was not in the set.
func (s *leafSet) add(leaf int) bool {
	if s.has(leaf) {
		return false
	}
	if w := leaf / 64; w >= len(s.words) {
		s.words = append(s.words, make([]uint64, max(w+1, 2*len(s.words))-len(s.words))...)
	}
	s.words[leaf/64] |= 1 << (leaf % 64)
	s.n++
	return true
}

// remove removes a leaf and says whether it was in the set.
func (s *leafSet) remove(leaf int) bool {
	if !s.has(leaf) {
		return false
	}
	s.words[leaf/64] &^= 1 << (leaf % 64)
	s.n--
	return true
}

func (s *leafSet) addSpan(t span) {
	if t.n == 0 {
		return
	}
	if w := (t.end() - 1) / 64; w >= len(s.words) {
		s.words = append(s.words, make([]uint64, max(w+1, 2*len(s.words))-len(s.words))...)
	}
	s.eachWord(t, func(w *uint64, mask uint64) {
		s.n += bits.OnesCount64(mask &^ *w)
		*w |= mask
	})
}

func (s *leafSet) removeSpan(t span) {
	s.eachWord(t.cut(span{0, len(s.words) * 64}), func(w *uint64, mask uint64) {
		s.n -= bits.OnesCount64(mask & *w)
		*w &^= mask
	})
}

// eachWord calls do with the words in which the leaves of t are, and their bits. It
// does not take a step for each leaf: a stranger may name millions in a few bytes.
func (s *leafSet) eachWord(t span, do func(w *uint64, mask uint64)) {
	for i := t.first; i < t.end(); {
		n := min(64-i%64, t.end()-i)
		do(&s.words[i/64], (1<<n-1)<<(i%64))
		i += n
	}
}

// hasAll says whether every leaf of t is in the set.
func (s *leafSet) hasAll(t span) bool {
	for i := t.first; i < t.end(); i++ {
		if i%64 == 0 && i+64 <= t.end() && i/64 < len(s.words) && s.words[i/64] == 1<<64-1 {
			i += 63
			continue
		}
		if !s.has(i) {
			return false
		}
	}
	return true
}

// spans appends the runs of leaves in t that are in the set, or those that are not.
func (s *leafSet) spans(dst []span, t span, in bool) []span {
	for i := t.first; i < t.end(); i++ {
		if s.has(i) != in {
			continue
		}
		first := i
		for i < t.end() && s.has(i) == in {
			i++
		}
		dst = append(dst, span{first, i - first})
	}
	return dst
}

// each calls do with the runs of leaves in the set, in order, until it returns false.
func (s *leafSet) each(do func(span) bool) {
	for i := 0; i < len(s.words)*64; {
		if w := s.words[i/64] >> (i % 64); w == 0 {
			i = (i/64 + 1) * 64
			continue
		} else {
			i += bits.TrailingZeros64(w)
		}
		first := i
		for i < len(s.words)*64 && s.has(i) {
			i++
		}
		if !do(span{first, i - first}) {
			return
		}
	}
}

// clone returns a copy.
func (s *leafSet) clone() leafSet {
	return leafSet{append([]uint64(nil), s.words...), s.n}
}
