package deflate

import (
	"encoding/binary"
	"math"
)

// Describe appends to dst a recipe that makes the stream of plain, its plain bytes, with what m
// predicts. It gives up if that has not far fewer bytes than the stream, or Work is not enough,
// of which it takes what Restore will. The recipe is not tested.
func (c *Codec) Describe(dst []byte, m Model, s *Stream, plain []byte, runs Runs) ([]byte, bool) {
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
			if p.predict(); p.work < 0 {
				return dst, false
			}
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
			predicted := p.predict()
			if p.work < 0 {
				return dst, false
			}
			if predicted == t {
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
		if int64(len(r.out)-len(dst)) > most {
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

// Guess returns the model that predicts the tokens best: likely, such as that of a stream
// beside this one, if it is not wrong anywhere, which saves to try all others; and also if
// Guesses is spent, so that this need not be in vain.
func (c *Codec) Guess(s *Stream, plain []byte, likely Model) Model {
	if likely != unknown {
		if wrong, _ := c.wrong(likely, s, plain, mostGuessed, 0); wrong == 0 || c.Guesses < 0 {
			return likely
		}
	}
	var models []Model
	for _, memory := range s.memories() {
		// The usual levels come first: the first one of the best is taken.
		for _, level := range []int{9, 6, 1, 8, 7, 5, 4, 3, 2} {
			models = append(models, Model(memory<<4|level))
		}
	}
	for n := 16 << 10; ; n *= 4 {
		least, last := 1.0, n >= min(len(plain), mostGuessed)
		fewest := math.MaxInt
		var best []Model
		for _, m := range models {
			wrong, of := c.wrong(m, s, plain, n, fewest)
			if c.Guesses < 0 {
				return likely
			}
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

// mostGuessed is how many plain bytes are predicted to guess a model, or a few more.
const mostGuessed = 256 << 10

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
// if they take too much work, or more than most are wrong. Guesses pays for it.
func (c *Codec) wrong(m Model, s *Stream, plain []byte, n, most int) (wrong, of int) {
	p := &c.predictor
	work := min(64*n, c.Guesses)
	p.reset(m, plain[:min(n+ahead, len(plain))], nil, work)
	defer func() {
		c.Guesses -= work - p.work
		p.release()
	}()
	done := 0
	for _, b := range s.blocks {
		p.startBlock()
		p.work -= blockWork
		tokens := s.tokens[done:b.tokens]
		done = b.tokens
		if b.form == stored {
			if p.work < 0 || p.pos+tokens[0].length() > n {
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
				p.work -= tokenWork
			}
		}
	}
	return wrong, of
}
