package exchange

import (
	"fmt"
	"math"
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
	front := appendPieces(make([]byte, headRoom, headRoom+raw), pieces)
	b := body{count: len(pieces), payload: front[headRoom:]}
	b.raw = len(b.payload)
	if l == levelStored {
		b.front = front
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
	lower  level         // levels below levelDense
	steady bool          // it was kept, or raised
	last   time.Time     // when the last answer was made
	waited time.Duration // since then
	// Sums of late: older ones count less.
	bytes float64 // of answers, before packing
	busy  float64 // seconds without waiting
	total float64 // seconds
}

const (
	// From tooBusy on, as a part of the time, answers are made less dense, and up to
	// idle, as far as can be told, denser.
	tooBusy = 0.95
	idle    = 0.5
	// lately is over how many seconds the sums reach. A level is kept until they reach over
	// settled, or soon if it keeps the line waiting from the start.
	lately  = 0.3
	settled = 0.15
	soon    = 0.04
)

func (p *pace) level() level { return levelDense - p.lower }

// wait takes in that nothing was asked for, or accepted, for d.
func (p *pace) wait(d time.Duration) { p.waited += d }

// made takes in that an answer of n bytes, before packing, was made.
func (p *pace) made(e *encoder, n int) {
	now := time.Now()
	if p.last.IsZero() || !now.After(p.last) {
		p.last, p.waited = now, 0
		return
	}
	since := now.Sub(p.last).Seconds()
	keep := math.Exp(-since / lately)
	p.bytes = p.bytes*keep + float64(n)
	p.busy = p.busy*keep + lately*(1-keep)*(1-p.waited.Seconds()/since)
	p.total = p.total*keep + lately*(1-keep)
	p.last, p.waited = now, 0
	early := p.total < settled
	if early && (p.steady || p.total < soon) {
		return // too early to tell
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch l := p.level(); {
	case p.busy > tooBusy*p.total && l > levelStored:
		p.lower++
	case early:
		return
	case l < levelDense && p.bytes/p.total < idle*e.speed[l+1]:
		p.lower--
		p.steady = true
	default:
		p.steady = true
		return
	}
	p.bytes, p.busy, p.total = 0, 0, 0 // of this level nothing is known
}
