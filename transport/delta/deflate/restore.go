package deflate

import "fmt"

// Codec makes and follows recipes. A zero Codec is ready but for its Work, and to make them its
// Guesses. It keeps memory for the next call, 700 KiB at most. Two goroutines need two.
type Codec struct {
	// Work is how many steps, of a few nanoseconds, may still be taken. A place that is
	// looked at in search of matches is one, and so are 8 bytes found the same and a plain
	// byte; a token is tokenWork, a block blockWork. gzip -9 takes about 15 for a byte of
	// text. The caller sets it.
	Work int
	// Guesses is how many of the same steps Guess may take, which Restore does not. The
	// caller sets it. The first stream takes some millions, and others that were made by the
	// same compressor a twentieth of that.
	Guesses int

	predictor predictor
	coder     coder
	block     []token
}

// What is made without a search takes its time too, and a recipe may say of tokens and blocks
// what it likes: a block of no bytes takes two of it.
const (
	tokenWork = 8
	blockWork = 1 << 10
)

// keptBlock is how many tokens of memory are kept: more than gzip writes into a block.
const keptBlock = 1 << 16

// Restore appends to dst the stream that recipe makes of plain, at most max bytes. It
// fails with ErrMalformed if there is none, or Work is not enough. runs may be nil, but has to be the same as when
// the recipe was made.
func (c *Codec) Restore(dst, recipe, plain []byte, runs Runs, max int) ([]byte, error) {
	w := bitWriter{out: dst}
	if err := c.restore(&w, recipe, plain, runs, len(dst)+max); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return w.out, nil
}

func (c *Codec) restore(w *bitWriter, recipe, plain []byte, runs Runs, most int) error {
	if len(recipe) < 2 || !Model(recipe[0]).valid() {
		return errHeader
	}
	if c.Work -= len(plain); c.Work < 0 {
		return errWork
	}
	c.predictor.reset(Model(recipe[0]), plain, runs, c.Work)
	defer func() {
		c.Work = c.predictor.work
		c.predictor.release()
		if cap(c.block) > keptBlock {
			c.block = nil
		}
	}()
	r := corrections{rest: recipe[2:]}
	if err := r.advance(); err != nil {
		return err
	}
	for goesOn := true; goesOn; {
		isStored, err := c.restoreTokens(&r)
		if err != nil {
			return err
		}
		if isStored {
			goesOn, err = c.restoreStored(w, &r)
		} else {
			goesOn, err = c.restoreCodes(w, &r, most)
		}
		if err != nil {
			return err
		}
		if len(w.out) > most {
			return errTooLarge
		}
	}
	w.align(recipe[1])
	if len(w.out) > most {
		return errTooLarge
	}
	if r.any {
		return errRest
	}
	return nil
}

// restoreTokens sets c.block to the tokens of the next block, unless that is a stored one.
func (c *Codec) restoreTokens(r *corrections) (isStored bool, err error) {
	p := &c.predictor
	p.startBlock()
	p.work -= blockWork
	c.block = c.block[:0]
	for {
		t := p.predict()
		if p.work < 0 {
			return false, errWork
		}
		if r.due() {
			if r.kind == kindStored {
				if len(c.block) > 0 {
					return false, errCorrection
				}
				return true, nil
			}
			if t, err = r.token(p.pos, len(p.plain)); err != nil {
				return false, err
			}
		}
		if t == end {
			return false, nil
		}
		if len(c.block) == maxBlock {
			return false, errTokens
		}
		p.accept(t)
		p.work -= tokenWork
		c.block = append(c.block, t)
	}
}

func (c *Codec) restoreStored(w *bitWriter, r *corrections) (goesOn bool, err error) {
	p := &c.predictor
	v, err := r.uvarint()
	if err != nil {
		return false, err
	}
	n := v >> 2
	if n > 1<<16-1 || int(n) > len(p.plain)-p.pos {
		return false, errCorrection
	}
	bytes := p.plain[p.pos:][:n]
	p.skip(len(bytes))
	final, goesOn, err := r.more(byte(v&3), p.pos == len(p.plain))
	if err != nil {
		return false, err
	}
	w.block(stored, final)
	w.align(0)
	w.bits(uint32(n)|(uint32(n)^0xffff)<<16, 32)
	w.out = append(w.out, bytes...)
	return goesOn, r.advance()
}

func (c *Codec) restoreCodes(w *bitWriter, r *corrections, most int) (goesOn bool, err error) {
	p := &c.predictor
	c.coder.code(&p.literal, &p.distance)
	ends := p.pos == len(p.plain)
	final, kind := ends, codesPredicted
	goesOn = !ends
	corrected := r.due()
	if corrected {
		kind = r.kind
		more, err := r.byte()
		if err != nil {
			return false, err
		}
		if final, goesOn, err = r.more(more, ends); err != nil {
			return false, err
		}
	}
	if kind == codesPredicted && c.coder.form == fixedCodes {
		kind = codesFixed
	}
	l := &c.coder.dynamic
	switch kind {
	case codesFixed:
		w.block(fixedCodes, final)
		l = &fixed
	case codesOther:
		from := bitReader{src: r.rest}
		other, err := readHeader(&from)
		if err != nil {
			return false, err
		}
		w.block(dynamicCodes, final)
		w.copy(r.rest, 0, from.offset())
		r.rest = r.rest[(from.offset()+7)/8:]
		l = &other
	default:
		w.block(dynamicCodes, final)
		w.copy(c.coder.header, 0, c.coder.headerBits)
	}
	if err := w.tokens(c.block, p.plain[p.from:p.pos], l, most); err != nil {
		return false, err
	}
	if corrected {
		return goesOn, r.advance()
	}
	return goesOn, nil
}

// block writes what every block begins with.
func (w *bitWriter) block(f form, final bool) {
	v := uint32(f) << 1
	if final {
		v |= 1
	}
	w.bits(v, 3)
}

// tokens writes those of a block and its end, with codes of these lengths, until out has
// more than most bytes.
func (w *bitWriter) tokens(tokens []token, plain []byte, l *lengths, most int) error {
	var literal [len(l.literal)]uint16
	var distance [len(l.distance)]uint16
	codes(literal[:], l.literal[:])
	codes(distance[:], l.distance[:])
	for _, t := range tokens {
		d := t.distance()
		if d == 0 {
			w.bits(uint32(literal[plain[0]]), int(l.literal[plain[0]]))
			plain = plain[1:]
			continue
		}
		n := t.length()
		plain = plain[n:]
		s := int(lengthSymbol[n-minMatch])
		bits := int(l.literal[endSymbol+1+s])
		w.bits(uint32(literal[endSymbol+1+s])|uint32(n-minMatch-int(lengthBase[s]))<<bits, bits+int(lengthExtra[s]))
		s = distanceSymbol(d - 1)
		bits = int(l.distance[s])
		w.bits(uint32(distance[s])|uint32(d-1-int(distanceBase[s]))<<bits, bits+int(distanceExtra[s]))
		if len(w.out) > most {
			return errTooLarge
		}
	}
	w.bits(uint32(literal[endSymbol]), int(l.literal[endSymbol]))
	return nil
}
