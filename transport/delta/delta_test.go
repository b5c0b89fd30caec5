package delta

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"pollux/blockstore"
)

// random returns n bytes that nothing compresses, the same for the same seed.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// page returns a page of a site, of some 30 to 60 bytes a line, which says that it
// changed on date.
func page(lines int, seed uint64, date string) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	words := strings.Fields("castor pollux twin horse boxer leda swan argo sparta helen dioscuri star")
	var b bytes.Buffer
	fmt.Fprintf(&b, "<html><title>%d</title>\n", seed)
	for range lines {
		fmt.Fprintf(&b, "<li><a href=\"%d.html\">%s %s</a> %d</li>\n", r.IntN(1000),
			words[r.IntN(len(words))], words[r.IntN(len(words))], r.IntN(1e6))
	}
	fmt.Fprintf(&b, "<footer>Last change: %s, by Leda</footer></html>\n", date)
	return b.Bytes()
}

// edit changes about one line in every, each in one of the ways in which lines change.
func edit(b []byte, every int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	lines := bytes.SplitAfter(b, []byte("\n"))
	var out []byte
	for i, l := range lines {
		if r.IntN(every) > 0 {
			out = append(out, l...)
			continue
		}
		switch r.IntN(4) {
		case 0: // removed
		case 1: // inserted
			out = append(append(out, l...), "<li>and now something else</li>\n"...)
		case 2: // replaced
			out = append(out, bytes.ToUpper(l)...)
		case 3: // moved
			out = append(append(out, l...), lines[(i+len(lines)/2)%len(lines)]...)
		}
	}
	return out
}

// roundTrip checks the promises of Append for one pair, and returns the delta.
func roundTrip(t testing.TB, e *Encoder, base, target []byte) []byte {
	t.Helper()
	before := []byte("before")
	d := e.Append(before, base, target)
	d, ok := bytes.CutPrefix(d, before)
	if !ok {
		t.Fatal("what was in dst has changed")
	}
	if len(d) > len(target)+9 {
		t.Errorf("the delta of %d bytes has %d", len(target), len(d))
	}
	got, err := Apply(before, d, base, len(target))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append(before, target...)) {
		t.Fatal("the target came back different")
	}
	if len(target) > 0 {
		if _, err := Apply(nil, d, base, len(target)-1); !errors.Is(err, ErrMalformed) {
			t.Errorf("one byte over the limit: %v", err)
		}
	}
	// For each byte of the base a slot or two of the index, cleared and filled; for
	// each of the target three places to look at, where a few words at most are
	// compared in vain. The smallest index has 16 slots.
	if most := 4*len(base) + 6*len(target) + 32; e.work > most {
		t.Errorf("%d steps for %d and %d bytes", e.work, len(base), len(target))
	}
	return d
}

func TestRoundTrip(t *testing.T) {
	const size = 1 << 19
	p := page(400, 1, "May 12")
	large := page(10_000, 2, "May 12")
	zeros := make([]byte, size)
	noise := random(size, 1)
	largest := random(blockstore.MaxBlockSize, 3)
	ones := bytes.Clone(zeros)
	for i := 0; i < size; i += 100 {
		ones[i] = 1
	}
	periodic := func(period, shift int) []byte {
		return bytes.Repeat(noise[shift:shift+period], size/period)
	}
	// apart puts a short run of between after each n bytes of b, as long as size allows.
	apart := func(b []byte, n int, between []byte) []byte {
		var out []byte
		for ; len(out)+n+len(between) <= size; b = b[n:] {
			out = append(append(out, b[:n]...), between...)
		}
		return out
	}
	shuffled := func(b []byte, piece int) []byte {
		var out []byte
		for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(b) / piece) {
			out = append(out, b[i*piece:][:piece]...)
		}
		return out
	}
	var used Encoder
	for _, test := range []struct {
		name         string
		base, target []byte
		atMost       int // bytes of the delta
	}{
		{"both empty", nil, nil, 0},
		{"empty base", nil, p, len(p) + 4},
		{"empty target", p, nil, 0},
		{"short", []byte("abc"), []byte("abd"), 4},
		{"same", p, p, 2},
		{"same, short", []byte("ab"), []byte("ab"), 3},
		{"one byte changed", p, append(append(bytes.Clone(p[:5000]), '!'), p[5001:]...), 6},
		{"one byte inserted", p, append(append(bytes.Clone(p[:5000]), '!'), p[5000:]...), 6},
		{"one byte removed", p, append(bytes.Clone(p[:5000]), p[5001:]...), 6},
		{"start removed", p, p[5000:], 4},
		{"end removed", p, p[:len(p)-5000], 4},
		{"prepended", p, append([]byte("new "), p...), 6},
		{"appended", p, append(bytes.Clone(p), " new"...), 7},
		{"twice", p, append(bytes.Clone(p), p...), 8},
		{"halves swapped", p, append(bytes.Clone(p[9000:]), p[:9000]...), 12},
		{"another page", p, page(400, 3, "May 13"), 20_000},
		{"lines edited", p, edit(p, 20, 1), 1500},
		{"large, lines edited", large, edit(large, 1000, 1), 1000},
		{"large, many lines edited", large, edit(large, 10, 1), 75_000},
		{"noise", noise, random(size, 2), size + 4},
		{"noise shifted by one", noise, append([]byte{0}, noise[:size-1]...), 8},
		{"largest block in pieces of 100", largest, shuffled(largest, 100), blockstore.MaxBlockSize / 100 * 20},
		{"noise in pieces of 16", noise, shuffled(noise, 16), size},
		{"noise, a byte inserted in 12", noise, apart(noise, 12, noise[:1]), size / 12 * 4},
		{"runs of 10 between changes of 20", apart(noise, 20, zeros[:10]), apart(random(size, 2), 20, zeros[:10]), size / 30 * 23},
		{"zeros", zeros, zeros[1:], 4},
		{"zeros to noise", zeros, noise, size + 4},
		{"noise to zeros", noise, zeros, size + 4},
		{"zeros to sparse", zeros, ones, size / 100 * 5},
		{"sparse to zeros", ones, zeros, size / 100 * 6},
		{"sparse shifted by one", ones, append([]byte{7}, ones[:size-1]...), 8},
		{"period 3 to 4", periodic(3, 0), periodic(4, 0), size + 4},
		{"period 1000 to 1001", periodic(1000, 0), periodic(1001, 0), size / 1000 * 20},
		{"period 1000 out of step", periodic(1000, 0), periodic(1000, 1), size / 1000 * 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			var e Encoder
			d := roundTrip(t, &e, test.base, test.target)
			if len(d) > test.atMost {
				t.Errorf("%d bytes make %d, want at most %d", len(d), len(test.target), test.atMost)
			}
			if !bytes.Equal(used.Append(nil, test.base, test.target), d) {
				t.Error("an encoder that was used before makes another delta")
			}
		})
	}
}

// Pages whose footer changed have the same delta, whatever their lengths: this is what
// makes a batch of them small.
func TestSiblingsHaveTheSameDelta(t *testing.T) {
	var e Encoder
	want := e.Append(nil, page(30, 1, "May 12"), page(30, 1, "October 7"))
	for i := range uint64(100) {
		lines := 20 + int(i)*10
		d := roundTrip(t, &e, page(lines, i, "May 12"), page(lines, i, "October 7"))
		if !bytes.Equal(d, want) {
			t.Fatalf("page %d: %x, want %x", i, d, want)
		}
	}
}

// Of a target that has nothing of the base, such as an image, not every place is looked at.
func TestNoiseIsSkimmed(t *testing.T) {
	var e Encoder
	noise := random(blockstore.MaxBlockSize, 1)
	roundTrip(t, &e, random(1000, 2), noise)
	if e.work > len(noise)/4 {
		t.Errorf("%d steps for %d bytes", e.work, len(noise))
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	var e Encoder
	base := page(1000, 1, "May 12")
	target := edit(base, 10, 1)
	dst := e.Append(nil, base, target)
	if n := testing.AllocsPerRun(10, func() { dst = e.Append(dst[:0], base, target) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// The example in docs/protocol.md, byte by byte.
func TestExample(t *testing.T) {
	const before = "<h1>Castor</h1>\n<p>A tamer of horses.</p>\n<hr>Last change: May 12, by Leda\n"
	const after = "<h1>Castor</h1>\n<p>A breaker of horses.</p>\n<hr>Last change: October 7, by Leda\n"
	var e Encoder
	d := e.Append(nil, []byte(before), []byte(after))
	rows := []string{
		"00 2a",
		"16 06 21",
		"26 0c 01",
		"62 72 65 61 6b",
		"4f 63 74 6f 62 65 72 20 37",
	}
	if got, want := fmt.Sprintf("% x", d), strings.Join(rows, " "); got != want {
		t.Errorf("delta is\n%s, want\n%s", got, want)
	}
	got, err := Apply(nil, d, []byte(before), len(after))
	if err != nil || string(got) != after {
		t.Errorf("Apply = %q, %v", got, err)
	}

	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{before, after} {
		for line := range strings.Lines(text) {
			if !strings.Contains(string(doc), line) {
				t.Errorf("docs/protocol.md lacks %q", line)
			}
		}
	}
	for _, row := range rows {
		if !strings.Contains(string(doc), "\n"+row+"  ") {
			t.Errorf("docs/protocol.md lacks the row %s", row)
		}
	}
}

// ops builds deltas by hand: numbers are uvarints, strings literals.
func ops(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = appendUvarint(b, uint64(p))
		case uint64:
			b = appendUvarint(b, p)
		case string:
			b = append(b, p...)
		}
	}
	return b
}

func appendUvarint(b []byte, v uint64) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

func TestApply(t *testing.T) {
	base := []byte("0123456789")
	for _, test := range []struct {
		delta []byte
		want  string
	}{
		{nil, ""},
		{ops(0, 2*10), "0123456789"},
		{ops(0, 1), "0123456789"},
		{ops(0, 2*3), "012"},
		{ops(0, 2*7+1), "012"},
		{ops(0, 2*3, 2, 2*4, 1), "012789"},                 // skip 4
		{ops(2, 2*7, 1, 2, 2*10-1, 2*3), "789012"},         // skip -10
		{ops(0, 2*3, 2<<2, 1, "ab"), "012ab3456789"},       // inserted
		{ops(0, 2*3, 2<<2|1, 1, "ab"), "012ab56789"},       // replaced
		{ops(0, 2*3, 2<<2|2, 2*1, 1, "ab"), "012ab456789"}, // one replaced by two
		{ops(2<<2|3, "ab"), "ab"},
		{ops(2<<2|3, 1<<2|3, "abc"), "abc"},
		{ops(1<<2|3, 0, 2*2, "a"), "a01"}, // literals alone do not move the cursor
	} {
		for limit := range 16 {
			got, err := Apply([]byte("dst "), test.delta, base, limit)
			if limit < len(test.want) {
				if !errors.Is(err, ErrMalformed) || got != nil {
					t.Errorf("Apply(%x, limit %d) = %q, %v", test.delta, limit, got, err)
				}
			} else if err != nil || string(got) != "dst "+test.want {
				t.Errorf("Apply(%x, limit %d) = %q, %v, want %q", test.delta, limit, got, err, test.want)
			}
		}
	}
}

func TestApplyHostile(t *testing.T) {
	base := []byte("0123456789")
	const huge = math.MaxUint64
	for name, delta := range map[string][]byte{
		"head alone":                      ops(0),
		"head alone, with literals":       ops(1<<2, "a"),
		"cut in a number":                 {0x80},
		"cut in a copy":                   {0x00, 0x80},
		"cut in a skip":                   {0x02, 0x80},
		"number of 65 bits":               {0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},
		"number without end":              bytes.Repeat([]byte{0xff}, 1000),
		"number of zeros without end":     append(bytes.Repeat([]byte{0x80}, 1000), 0),
		"empty copy":                      ops(0, 0),
		"empty copy of the rest":          ops(0, 2*10+1),
		"empty copies":                    bytes.Repeat(ops(0, 0), 100_000),
		"empty literals":                  append(ops(0, 2), bytes.Repeat(ops(3), 100_000)...),
		"copy too long":                   ops(0, 2*11),
		"copy of 2^63 - 1":                ops(0, uint64(huge)-1),
		"copy that ends before its start": ops(0, 2*11+1),
		"copy that ends 2^63 - 1 before":  ops(0, uint64(huge)),
		"copy after the end":              ops(0, 1, 0, 2),
		"rest after the end":              ops(0, 1, 0, 1),
		"skip beyond the end":             ops(2, 2*11, 2),
		"rest after a skip to the end":    ops(2, 2*10, 1),
		"skip before the start":           ops(2, 1, 2),
		"skip of 2^63 - 1":                ops(2, uint64(huge)-1, 2),
		"skip of -2^63":                   ops(2, uint64(huge), 2),
		"second skip of 2^63 - 1":         ops(0, 2*5, 2, uint64(huge)-1, 2),
		"second skip of -2^63":            ops(0, 2*5, 2, uint64(huge), 2),
		"replaced beyond the end":         ops(11<<2|1, 2, "abcdefghijk"),
		"rest, replaced beyond the end":   ops(11<<2|1, 1, "abcdefghijk"),
		"replaced and skipped too far":    ops(0, 1, 1<<2|1, 1, "a"),
		"literals missing":                ops(2<<2 | 3),
		"literals cut short":              ops(2<<2|3, "a"),
		"2^62 - 1 literals":               ops(uint64(huge), "a"),
		"2^62 - 1 literals and a copy":    ops(uint64(huge)-3, 2, "a"),
		"literals of the second missing":  ops(1<<2|3, 1<<2|3, "a"),
		"literals too many":               ops(1<<2|3, "ab"),
		"a byte too many":                 ops(0, 1, "a"),
		"too large by one":                ops(0, 1, 2, 2*10-1, 1, 2, 2*10-1, 2),
		"too large by far":                append(ops(0, 1), bytes.Repeat(ops(2, 2*10-1, 1), 100_000)...),
	} {
		t.Run(name, func(t *testing.T) {
			dst := append(make([]byte, 0, 100), "dst"...)
			// More than once, since what others allocate meanwhile counts.
			allocated := testing.AllocsPerRun(10, func() {
				got, err := Apply(dst, delta, base, 20)
				if !errors.Is(err, ErrMalformed) || got != nil {
					t.Errorf("Apply = %q, %v", got, err)
				}
			})
			if allocated > 10 { // the error
				t.Errorf("%v allocations", allocated)
			}
			if rest := dst[3:100]; !bytes.Equal(rest, make([]byte, 97)) {
				t.Errorf("wrote %q", rest)
			}
		})
	}
}

// A delta that is cut, or has a bit flipped, makes something else or nothing, but within
// the limits.
func TestApplyDamaged(t *testing.T) {
	var e Encoder
	base := page(50, 1, "May 12")
	target := edit(base, 5, 1)
	delta := e.Append(nil, base, target)
	for n := range delta {
		if _, err := Apply(nil, delta[:n], base, len(target)); n > 0 && err == nil {
			if got, _ := Apply(nil, delta[:n], base, len(target)); bytes.Equal(got, target) {
				t.Errorf("%d of %d bytes make the same", n, len(delta))
			}
		}
		for bit := range 8 {
			damaged := bytes.Clone(delta)
			damaged[n] ^= 1 << bit
			got, err := Apply(nil, damaged, base, len(target))
			if len(got) > len(target) || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %d bytes, %v", hex.EncodeToString(damaged), len(got), err)
			}
		}
	}
}
