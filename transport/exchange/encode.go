package exchange

import (
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// level is how much a provider does to make an answer short.
type level int

const (
	levelStored level = iota // blocks as they are on disk
	levelFast
	levelDense
)

// encoder packs bodies. Its methods may be called from many goroutines.
type encoder struct {
	zstd [levelDense + 1]*zstd.Encoder

	mu    sync.Mutex
	speed [levelDense + 1]float64 // bytes/s before packing that one goroutine reads and packs
}

// minSaving is the part of its bytes that packing has to save: a sixteenth.
const minSaving = 16

func newEncoder() (*encoder, error) {
	// Before it has measured: what one core of a small computer does.
	e := &encoder{speed: [...]float64{levelFast: 150e6, levelDense: 60e6}}
	for l, speed := range map[level]zstd.EncoderLevel{
		levelFast: zstd.SpeedDefault, levelDense: zstd.SpeedBetterCompression,
	} {
		var err error
		e.zstd[l], err = zstd.NewWriter(nil, zstd.WithEncoderLevel(speed),
			zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
	}
	return e, nil
}

// body packs pieces.
func (e *encoder) body(pieces []piece, l level) body {
	raw := 0
	for _, p := range pieces {
		raw += len(p.bytes) + 4
	}
	b := body{count: len(pieces), payload: appendPieces(make([]byte, 0, raw), pieces)}
	b.raw = len(b.payload)
	if l == levelStored {
		return b
	}
	packed := e.zstd[l].EncodeAll(b.payload, make([]byte, 0, b.raw/4))
	if len(packed) <= b.raw-b.raw/minSaving {
		b.encoding, b.payload = encodingZstd, packed
	}
	return b
}

// made notes how long it took to read and pack n bytes.
func (e *encoder) made(l level, n int, d time.Duration) {
	if n < 64<<10 || d <= 0 {
		return // says little
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.speed[l] += (float64(n)/d.Seconds() - e.speed[l]) / 8
}

// pace chooses the level for one stream. As long as answers are made faster than they are
// taken, it costs no time to make them denser, and saves it on the way; when whoever
// makes them has no pause, they are what keeps the line waiting. The zero value is dense
// at first. It is for one goroutine.
type pace struct {
	lower level     // levels below levelDense
	busy  float64   // part of the time that goes into making answers, of late
	rate  float64   // bytes/s before packing, of late
	last  time.Time // when the last answer was made
}

const (
	// From tooBusy on answers are made less dense, and up to idle, as far as can be told,
	// denser.
	tooBusy = 0.9
	idle    = 0.5
	// paceWeight is that of the last answer in what is "of late".
	paceWeight = 1. / 8
)

func (p *pace) level() level { return levelDense - p.lower }

// made takes in that an answer of n bytes, before packing, took d to make.
func (p *pace) made(e *encoder, n int, d time.Duration) {
	now := time.Now()
	since := now.Sub(p.last)
	if p.last.IsZero() || since < d {
		since = d
	}
	p.last = now
	if since <= 0 {
		return
	}
	p.busy += (float64(d)/float64(since) - p.busy) * paceWeight
	p.rate += (float64(n)/since.Seconds() - p.rate) * paceWeight
	e.mu.Lock()
	defer e.mu.Unlock()
	switch l := p.level(); {
	case p.busy > tooBusy && l > levelStored:
		p.lower++
		p.busy = (tooBusy + idle) / 2 // it has to show again
	case l < levelDense && p.rate < idle*e.speed[l+1]:
		p.lower--
		p.busy = 0
	}
}
