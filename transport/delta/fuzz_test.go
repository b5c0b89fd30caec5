package delta

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzApply reads arbitrary bytes as a delta: whatever they are, the limit holds.
func FuzzApply(f *testing.F) {
	base := page(3, 1, "May 12")
	target := edit(base, 2, 1)
	var e Encoder
	f.Add(e.Append(nil, base, target), base, len(target))
	f.Add(e.Append(nil, target, base), target, len(base)-1)
	f.Add(e.Append(nil, nil, target), []byte{}, len(target))
	f.Add(e.Append(nil, base, base[10:]), base, 1<<20)
	base, target = gzipped(f, page(60, 1, "May 12")), gzipped(f, page(60, 1, "October 7"))
	f.Add(e.Append(nil, base, target), base, len(target))
	f.Add(e.Append(nil, target, base), target, len(base)-1)
	f.Fuzz(func(t *testing.T, delta, base []byte, maxSize int) {
		if maxSize < 0 || maxSize > 1<<20 {
			return
		}
		got, err := Apply(nil, delta, base, maxSize)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || got != nil {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			return
		}
		if len(got) > maxSize {
			t.Fatalf("%d bytes, at most %d allowed", len(got), maxSize)
		}
		roundTrip(t, &Encoder{}, base, got)
		roundTrip(t, &Encoder{}, got, base)
	})
}

// FuzzRoundTrip checks the promises of Append for arbitrary pairs, long ones too: each
// is repeated.
func FuzzRoundTrip(f *testing.F) {
	p := page(3, 1, "May 12")
	f.Add(p, page(3, 1, "October 7"), byte(0))
	f.Add(p, edit(p, 2, 1), byte(1))
	f.Add([]byte{0}, []byte{0, 0, 1}, byte(200))
	f.Add([]byte("abcdefgh"), []byte("bcdefgha"), byte(100))
	f.Fuzz(func(t *testing.T, base, target []byte, more byte) {
		n := 1 + int(more)
		if n*max(len(base), len(target)) > 1<<20 {
			return
		}
		e := &Encoder{}
		roundTrip(t, e, base, target)
		d := roundTrip(t, e, bytes.Repeat(base, n), bytes.Repeat(target, n))
		if !bytes.Equal(d, (&Encoder{}).Append(nil, bytes.Repeat(base, n), bytes.Repeat(target, n))) {
			t.Fatal("an encoder that was used before makes another delta")
		}
	})
}

// FuzzOpened checks the promises of Append for blocks with compressed streams between
// arbitrary bytes.
func FuzzOpened(f *testing.F) {
	p := page(60, 1, "May 12")
	f.Add(p, page(60, 1, "October 7"), []byte("before"), []byte("behind"), 0)
	f.Add(p, edit(p, 2, 1), []byte{}, []byte{}, 300)
	f.Add(p, p[:1000], random(100, 1), gzipped(f, p), 2)
	f.Fuzz(func(t *testing.T, base, target, before, behind []byte, cut int) {
		if max(len(base), len(target), len(before), len(behind)) > 1<<16 {
			return
		}
		base, target = join(gzipped(t, base), behind), join(before, gzipped(t, target), behind)
		roundTrip(t, &Encoder{}, base, target)
		if cut >= 0 && cut < min(len(base), len(target)) {
			roundTrip(t, &Encoder{}, base[:len(base)-cut], target[:len(target)-cut])
			roundTrip(t, &Encoder{}, base, target[cut:])
		}
	})
}
