package delta

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"pollux/blockstore"
	"pollux/transport/delta/deflate"
)

// gzipped and zipped are made by Go, whose compressor is not among those that are predicted:
// that takes some corrections.
func gzipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Name, w.Comment, w.Extra, w.ModTime = "page.html", "of Leda", []byte("extra"), time.Unix(1e9, 0)
	return written(t, &b, w, plain)
}

func zipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	return written(t, &b, zlib.NewWriter(&b), plain)
}

func written(t testing.TB, b *bytes.Buffer, w io.WriteCloser, plain []byte) []byte {
	t.Helper()
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// localFile is a ZIP archive's entry.
func localFile(name string, stream []byte) []byte {
	b := append([]byte("PK\x03\x04\x14\x00\x00\x00\x08\x00"), make([]byte, 16)...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(name)))
	b = binary.LittleEndian.AppendUint16(b, 4)
	return append(append(append(b, name...), "more"...), stream...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestOpened(t *testing.T) {
	old, old2 := page(1000, 1, "May 12"), page(700, 2, "May 12")
	after, after2 := page(1000, 1, "October 7"), edit(old2, 100, 1)
	noise := random(20_000, 1)
	for _, test := range []struct {
		name         string
		base, target []byte
		atMost       int // bytes of the delta
	}{
		{"gzip", gzipped(t, old), gzipped(t, after), 500},
		{"gzip of several members", join(gzipped(t, old), gzipped(t, old2)), join(gzipped(t, after), gzipped(t, after2)), 1500},
		{"gzip with bytes behind it", join(gzipped(t, old), noise), join(gzipped(t, after), noise[1:]), 500},
		{"zlib", zipped(t, old), zipped(t, after), 500},
		{"zlib between noise", join(noise, zipped(t, old), noise), join(noise, zipped(t, after), noise[5:]), 500},
		{"zip", join(localFile("a", zipped(t, old)[2:]), localFile("b", zipped(t, old2)[2:])),
			join(localFile("a", zipped(t, after)[2:]), localFile("b", zipped(t, after2)[2:])), 1500},
		{"base with more of them", join(gzipped(t, old), gzipped(t, old2)), gzipped(t, after2), 1500},
		{"from gzip to zlib", gzipped(t, old), zipped(t, after), 500},
	} {
		t.Run(test.name, func(t *testing.T) {
			var e Encoder
			d := roundTrip(t, &e, test.base, test.target)
			if len(d) == 0 || d[0] != openedMark || len(d) > test.atMost {
				t.Errorf("%d bytes make %d, want at most %d", len(d), len(test.target), test.atMost)
			}
			// Cut anywhere, they still have one.
			for _, n := range []int{1, 3} {
				roundTrip(t, &e, test.base[:len(test.base)*n/4], test.target)
				roundTrip(t, &e, test.base, test.target[:len(test.target)*n/4])
				roundTrip(t, &e, test.base[n:], test.target[n:])
			}
		})
	}
}

// Where it does not help, the delta is the ordinary one.
func TestNotOpened(t *testing.T) {
	var long []byte // too many
	for i := range uint64(2 * maxStreams) {
		long = append(long, gzipped(t, page(3, i, "May 12"))...)
	}
	many := bytes.Repeat([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00\x04"), 10_000)
	bomb := gzipped(t, make([]byte, 2*maxOpened))
	p := gzipped(t, page(300, 1, "May 12"))
	for _, test := range []struct {
		name         string
		base, target []byte
	}{
		{"no base", nil, p},
		{"base without a stream", page(300, 1, "May 12"), p},
		{"target without a stream", p, page(300, 1, "May 12")},
		{"nothing in common", gzipped(t, random(3000, 1)), gzipped(t, random(3000, 2))},
		{"what looks like streams", many, append(many[1:], random(300, 1)...)},
		{"bomb as base", bomb, p},
		{"bomb", p, bomb},
		{"bombs", join(bomb, bomb, bomb), join(bomb, bomb)[1:]},
	} {
		t.Run(test.name, func(t *testing.T) {
			if d := roundTrip(t, new(Encoder), test.base, test.target); len(d) > 0 && d[0] == openedMark {
				t.Errorf("opened, %d bytes", len(d))
			}
		})
	}
	roundTrip(t, new(Encoder), long, append(gzipped(t, []byte("new")), long...))
}

// What streams make that are too short is made in vain too: few bytes make many.
func TestShortStreamsAreWasted(t *testing.T) {
	const plain = 900 << 10
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write(make([]byte, plain)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\x06\x06") // no type of a block
	if b.Len() >= minCut {
		t.Fatalf("%d bytes are not short", b.Len())
	}
	good := zipped(t, page(100, 1, "May 12"))
	short := maxFailedBytes/plain + 1
	for n, want := range map[int]int{short - 2: 1, short + 2: 0} {
		got := 0
		if o := openAll(join(bytes.Repeat(b.Bytes(), n), good), nil); o != nil {
			got = len(o.streams)
		}
		if got != want {
			t.Errorf("%d streams are opened behind %d short ones, want %d", got, n, want)
		}
	}
}

func TestApplyOpenedHostile(t *testing.T) {
	base := gzipped(t, page(30, 1, "May 12"))
	bomb := gzipped(t, make([]byte, maxOpened+1))
	o := openAll(base, nil)
	source, size := o.streams[0].source, len(o.bytes)
	all := ops(0, 1) // a copy of the base
	// mark begins a delta that opens the stream of base.
	mark := func(rest ...any) []byte {
		return ops(append([]any{int(openedMark), 1, source}, rest...)...)
	}
	for name, test := range map[string]struct{ delta, base []byte }{
		"nothing":                    {mark()[:1], base},
		"streams missing":            {ops(int(openedMark), 2, source), base},
		"no stream":                  {ops(int(openedMark), 1, 1, 0), base},
		"stream behind the end":      {ops(int(openedMark), 1, len(base)+1, 0), base},
		"stream at the end":          {ops(int(openedMark), 1, len(base), 0), base},
		"more streams than allowed":  {append(ops(int(openedMark), maxStreams+1), make([]byte, 1000)...), base},
		"streams, 2^63":              {ops(int(openedMark), uint64(1<<63)), base},
		"bomb":                       {ops(int(openedMark), 1, source, 0), bomb},
		"closed more than allowed":   {append(mark(maxStreams+1), make([]byte, 1000)...), base},
		"closed, cut":                {mark(1, 0), base},
		"recipe cut":                 {mark(1, 0, size, 100, "abc"), base},
		"recipe of one byte":         {append(mark(1, 0, size, 1, "\x09"), all...), base},
		"gap behind the end":         {append(mark(1, size+1, 0, 2, "\x09\x00"), all...), base},
		"plain behind the end":       {append(mark(1, 1, size, 2, "\x09\x00"), all...), base},
		"gap, longer than allowed":   {append(mark(1, maxOpened+1, 1, 2, "\x09\x00"), all...), base},
		"delta missing":              {mark(1, 0, size, 2, "\x09\x00"), base},
		"delta malformed":            {mark(0, 0), base},
		"opened twice":               {append(mark(0), mark(0)...), base},
		"more than is allowed":       {append(mark(0), all...), base},
		"more than may be open":      {append(mark(0), bytes.Repeat(ops(2, 2*size-1, 1), maxOpened/size+1)...), base},
		"stream larger than allowed": {append(mark(1, 0, size, 2, "\x09\x00"), all...), base},
		"rest larger than allowed":   {append(mark(1, 0, 0, 2, "\x09\x00"), all...), base},
	} {
		t.Run(name, func(t *testing.T) {
			const most = 200
			if got, err := Apply([]byte("dst"), test.delta, test.base, most); !errors.Is(err, ErrMalformed) || got != nil {
				t.Errorf("Apply = %d bytes, %v", len(got), err)
			}
		})
	}
	want := bytes.Clone(o.bytes)
	if got, err := Apply(nil, append(mark(0), all...), base, size); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a stream that is not closed: %d bytes, %v", len(got), err)
	}
}

// The delta of a block that is large when opened.
func TestOpenedLarge(t *testing.T) {
	old := page(50_000, 1, "May 12")
	base, target := gzipped(t, old), gzipped(t, edit(old, 10_000, 1))
	d := roundTrip(t, new(Encoder), base, target)
	if len(d) > len(target)/8 {
		t.Errorf("%d bytes make %d", len(d), len(target))
	}
}

// The example in docs/deltas.md, byte by byte.
func TestOpenedExample(t *testing.T) {
	var files [2][]byte
	for i, name := range []string{"gzip-9.gz", "changed-9.gzip"} {
		var err error
		if files[i], err = os.ReadFile("deflate/testdata/" + name); err != nil {
			t.Fatal(err)
		}
	}
	d := roundTrip(t, new(Encoder), files[0], files[1])
	rows := []string{
		"03",
		"01 0a",
		"01 0a b8 9c 01",
		"02 09 00",
		"00 98 98 01",
		"32 0a 11",
		"15 01",
		"3c 62 3e 68 6f 72 73 65",
		"3c 2f 62 3e",
		"d9 80 fc 18 38",
	}
	if got, want := fmt.Sprintf("% x", d), strings.Join(rows, " "); got != want {
		t.Errorf("delta is\n%s, want\n%s", got, want)
	}
	doc, err := os.ReadFile("../../docs/deltas.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if !strings.Contains(string(doc), "\n"+row+"  ") {
			t.Errorf("docs/deltas.md lacks the row %s", row)
		}
	}
}

// A delta takes no more steps than the streams of its base allow, whatever it asks for.
func TestApplyOpenedWork(t *testing.T) {
	html := page(1500, 1, "May 12") // 60 KB, more than a search looks back over
	packed := gzipped(t, html)
	opens := func(base []byte) (o *opened, head []any) {
		if o = openAll(base, nil); o == nil {
			return &opened{bytes: base}, []any{int(openedMark), 0}
		}
		return o, []any{int(openedMark), 1, o.streams[0].source}
	}
	// repeated closes all of what base is when opened, so many times that it has size bytes.
	repeated := func(base []byte, size int, recipe string) []byte {
		o, head := opens(base)
		n := len(o.bytes)
		times := max(size/n, 1)
		d := ops(append(head, 1, 0, times*n, len(recipe), recipe, 0, 1)...)
		return append(d, bytes.Repeat(ops(2, 2*n-1, 1), times-1)...)
	}
	blocks := func(base []byte, n int) []byte {
		_, head := opens(base)
		recipe := "\x00\x00" + strings.Repeat("\x04\x02", n) // as predicted, and another follows
		return ops(append(head, 1, 0, 0, len(recipe), recipe)...)
	}
	for name, test := range map[string]struct{ delta, base []byte }{
		"search of 15 MiB":            {repeated(html, 15<<20, "\x09\x00"), html},
		"search of 256 KiB":           {repeated(html, 256<<10, "\x09\x00"), html},
		"literals":                    {repeated(html, 256<<10, "\x00\x00"), html},
		"blocks":                      {blocks(html, 500_000), html},
		"search of 15 MiB, of packed": {repeated(packed, 15<<20, "\x09\x00"), packed},
		"search of 1 MiB, of packed":  {repeated(packed, 1<<20, "\x09\x00"), packed},
		"literals, of packed":         {repeated(packed, 1<<20, "\x00\x00"), packed},
		"blocks, of packed":           {blocks(packed, 500_000), packed},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := opens(test.base)
			if most := minWork + streamWork*len(packed); o.work() > most || len(o.streams) == 0 && o.work() > minWork {
				t.Fatalf("%d steps are allowed", o.work())
			}
			var codec deflate.Codec
			before := allocated()
			_, err := restoreOpened(nil, test.delta[1:], test.base, blockstore.MaxBlockSize, &codec)
			if err == nil {
				t.Error("it is not refused")
			}
			const last = 1 << 18 // the search that is too much
			if codec.Work < -last {
				t.Errorf("%d steps, want at most %d", o.work()-codec.Work, o.work())
			}
			if n := allocated() - before; n > 12<<20 {
				t.Errorf("%d KiB were allocated", n>>10)
			}
		})
	}
}

// allocated is how many bytes were allocated so far, whether or not they are in use.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// gzipped9 is made by the predictor, as gzip -9 would.
func gzipped9(t testing.TB, plain []byte) []byte {
	t.Helper()
	c := deflate.Codec{Work: 1 << 30}
	stream, err := c.Restore(nil, []byte{9, 0}, plain, nil, blockstore.MaxBlockSize)
	if err != nil {
		t.Fatal(err)
	}
	return join([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"), stream, make([]byte, 8))
}

// What would take more steps than are allowed to restore is not opened.
func TestNotOpenedForItsWork(t *testing.T) {
	html := page(1500, 1, "May 12")
	base := gzipped9(t, html)
	if d := roundTrip(t, new(Encoder), base, gzipped9(t, bytes.Repeat(html, 2))); d[0] != openedMark {
		t.Error("twice the base is not opened")
	}
	if d := roundTrip(t, new(Encoder), base, gzipped9(t, bytes.Repeat(html, 30))); d[0] == openedMark {
		t.Error("30 times the base is opened")
	}
}

// twoLetters are in an order in which gzip -9 takes some 600 steps for each.
func twoLetters(n int) []byte {
	b := random(n, 1)
	for i := range b {
		b[i] = "ab"[b[i]&1]
	}
	return b
}

// A stream that takes most of the steps, or more than all, is closed, and those around it are not.
func TestOneCostlyStream(t *testing.T) {
	var base, head, tail []byte
	for i := range uint64(10) {
		base = append(base, gzipped9(t, page(500, i, "May 12"))...)
		changed := gzipped9(t, page(500, i, "October 7"))
		if i < 5 {
			head = append(head, changed...)
		} else {
			tail = append(tail, changed...)
		}
	}
	var e Encoder
	without := len(roundTrip(t, &e, base, join(head, tail)))
	work := openAll(base, nil).work()
	took := work - e.codec.Work // by the pages
	if took < work/50 || took > work*3/4 {
		t.Fatalf("the pages take %d of %d steps", took, work)
	}
	// most takes most of the steps, and leaves the pages fewer than they take.
	plain := twoLetters(16 << 10)
	c := deflate.Codec{Work: work}
	if _, err := c.Restore(nil, []byte{9, 0}, plain, nil, len(plain)); err != nil || c.Work >= took*3/4 {
		t.Fatalf("%d of %d steps are left, and %v", c.Work, work, err)
	}
	most := gzipped9(t, plain)
	more := gzipped9(t, twoLetters(30_000))
	for name, tt := range map[string]struct{ costly, target []byte }{
		"most of the steps": {most, join(most, head, tail)},
		"more than all":     {more, join(head, more, tail)},
	} {
		t.Run(name, func(t *testing.T) {
			var e Encoder
			d := roundTrip(t, &e, base, tt.target)
			if atMost := without + len(tt.costly) + 100; len(d) > atMost {
				t.Errorf("%d bytes, want %d at most: %d without it, which has %d",
					len(d), atMost, without, len(tt.costly))
			}
		})
	}
}

// If it is not one stream alone, those that come first are opened.
func TestManyCostlyStreams(t *testing.T) {
	var base, changed []byte
	for i := range uint64(10) {
		base = append(base, gzipped9(t, page(1500, i, "May 12"))...)
		changed = append(changed, gzipped9(t, page(1500, i, "October 7"))...)
	}
	costly := bytes.Repeat(gzipped9(t, twoLetters(26_000)), 3)
	d := roundTrip(t, new(Encoder), base, join(changed, costly))
	if atMost := len(costly) + len(changed)/20; len(d) > atMost {
		t.Errorf("%d bytes, want %d at most: few but the costly ones", len(d), atMost)
	}
}

// Deltas are read once, however many streams what they make has.
func TestCopiesAreReadOnce(t *testing.T) {
	o := openAll(gzipped(t, page(100, 1, "May 12")), nil)
	const n = 100
	delta := ops(0, 2*n)
	for range n {
		delta = append(delta, ops(2, 2*n-1, 2*n)...) // back by n, and again
	}
	d := bytes.Clone(delta)
	c := newCopies(d, o)
	for start := 0; start < n*n; start += n / 2 {
		end := start + n/2
		if want, got := newCopies(delta, o).between(start, end)(0), c.between(start, end)(0); got != want {
			t.Fatalf("from %d on: %+v, want %+v", start, got, want)
		}
		clear(d[:len(d)-len(c.rest)])
	}
}
