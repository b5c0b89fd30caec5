package deflate

import (
	"encoding/binary"
	"math"
)

// Describe appends to dst a recipe that makes the stream of plain, its plain bytes. It gives
// up if that has not far fewer bytes than the stream, or Work is not enough. The recipe is
// not tested.
func (c *Codec) Describe(dst []byte, s *Stream, plain []byte, runs Runs) ([]byte, bool) {
	return c.describe(dst, c.guess(s, plain), s, plain, runs)
}

func (c *Codec) describe(dst []byte, m model, s *Stream, plain []byte, runs Runs) ([]byte, bool) {
	p := &c.predictor
	p.reset(m, plain, runs, c.Work-len(plain))
	defer func() {
		c.Work = p.work
		p.release()
	}()
	r := recipe{out: append(dst, byte(m), s.fill)}
	done := 0
	for i, b := range s.blocks {
		tokens := s.tokens[done:b.tokens]
		done = b.tokens
		p.startBlock()
		p.work -= blockWork
		if b.form == stored {
			p.predict()
			r.correct(kindStored)
			n := tokens[0].length()
			p.skip(n)
			r.out = binary.AppendUvarint(r.out, uint64(n)<<2|uint64(c.more(s, i)))
			continue
		}
		if len(tokens) > maxBlock {
			return dst, false
		}
		for _, t := range tokens {
			if p.predict() == t {
				r.right++
			} else {
				r.token(t)
			}
			if t != end {
				p.accept(t)
				p.work -= tokenWork
			}
		}
		c.describeCodes(&r, s, i)
		most := 1<<10 + int64(s.size)*int64(p.pos)/int64(max(len(plain), 1))/minGain
		if p.work < 0 || int64(len(r.out)-len(dst)) > most {
			return dst, false
		}
	}
	return r.out, true
}

// minGain is how many times shorter than the stream a recipe is to be.
const minGain = 8

func (c *Codec) describeCodes(r *recipe, s *Stream, i int) {
	p, b := &c.predictor, &s.blocks[i]
	c.coder.code(&p.literal, &p.distance)
	kind, more := codesFixed, c.more(s, i)
	if b.form == dynamicCodes {
		kind = codesOther
		if c.coder.is(s.src, b.header, b.headerBits) {
			kind = codesDynamic
		}
	}
	if b.form == c.coder.form && kind != codesOther {
		kind = codesPredicted
	}
	if kind == codesPredicted && more == moreNone {
		r.right++
		return
	}
	r.correct(kind)
	r.out = append(r.out, more)
	if kind == codesOther {
		w := bitWriter{out: r.out}
		w.copy(s.src, b.header, b.headerBits)
		w.align(0)
		r.out = w.out
	}
}

// more says what follows block i, behind which pos is.
func (c *Codec) more(s *Stream, i int) byte {
	switch {
	case c.predictor.pos < len(c.predictor.plain) || s.blocks[i].final:
		return moreNone
	case i == len(s.blocks)-1:
		return moreCut
	default:
		return moreEmpty
	}
}

// guess returns the model that predicts the tokens best.
func (c *Codec) guess(s *Stream, plain []byte) model {
	var models []model
	for _, memory := range s.memories() {
		// The usual levels come first: the first one of the best is taken.
		for _, level := range []int{9, 6, 1, 8, 7, 5, 4, 3, 2} {
			models = append(models, model(memory<<4|level))
		}
	}
	for n := 16 << 10; ; n *= 4 {
		least, last := 1.0, n >= min(len(plain), 256<<10)
		fewest := math.MaxInt
		var best []model
		for _, m := range models {
			wrong, of := c.wrong(m, s, plain, n, fewest)
			fewest = min(fewest, wrong)
			share := float64(wrong) / float64(max(of, 1))
			if share < least {
				least, best = share, nil
			}
			if share == least {
				best = append(best, m)
			}
			last = last || c.predictor.work < 0
		}
		if least > 1./8 {
			return unknown
		}
		if len(best) == 1 || last {
			return best[0]
		}
		models = best
	}
}

// memories returns those that may be, as the number of tokens in the blocks tells.
func (s *Stream) memories() []int {
	var fits [10]int
	done, most := 0, 0
	for _, b := range s.blocks {
		n := b.tokens - done - 1 // without the end
		done = b.tokens
		if b.final || b.form == stored {
			continue
		}
		if n == 1<<15-1 || n&0xfff == 0 {
			fits[0]++
		}
		for m := 1; m < 10; m++ {
			if n == 1<<(m+6)-1 {
				fits[m]++
			}
		}
	}
	for _, n := range fits {
		most = max(most, n)
	}
	if most == 0 {
		return []int{0, 9} // there is one block: these differ by their hash
	}
	var memories []int
	for m, n := range fits {
		if n == most {
			memories = append(memories, m)
		}
	}
	return memories
}

// wrong counts the predictions that are wrong in about the first n plain bytes, and all; fewer
// if they take too much work, or more than most are wrong.
func (c *Codec) wrong(m model, s *Stream, plain []byte, n, most int) (wrong, of int) {
	p := &c.predictor
	p.reset(m, plain[:min(n+ahead, len(plain))], nil, 64*n)
	done := 0
	for _, b := range s.blocks {
		p.startBlock()
		tokens := s.tokens[done:b.tokens]
		done = b.tokens
		if b.form == stored {
			if p.pos+tokens[0].length() > n {
				return wrong, of
			}
			p.skip(tokens[0].length())
			continue
		}
		for _, t := range tokens {
			if p.pos >= n || p.pos+t.length() > len(p.plain) {
				return wrong, of
			}
			of++
			if p.predict() != t {
				wrong++
			}
			if p.work < 0 || wrong > most {
				return wrong, of
			}
			if t != end {
				p.accept(t)
			}
		}
	}
	return wrong, of
}
