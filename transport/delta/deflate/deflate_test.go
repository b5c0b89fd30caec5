package deflate

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// text returns some n bytes like those of a page, the same for the same seed. They get
// harder and easier to compress.
func text(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	words := strings.Fields("castor pollux twin horse boxer leda swan argo sparta helen dioscuri star")
	var b bytes.Buffer
	for b.Len() < n {
		switch r.IntN(4) {
		case 0:
			fmt.Fprintf(&b, "<li><a href=\"%d.html\">%x</a></li>\n", r.IntN(1000), r.Uint64()>>r.IntN(64))
		case 1:
			if past := b.Bytes(); len(past) > 400 {
				at := r.IntN(len(past) - 400)
				b.Write(bytes.Clone(past[at : at+r.IntN(400)]))
			}
		default:
			for range r.IntN(20) {
				fmt.Fprintf(&b, "%s ", words[r.IntN(len(words))])
			}
		}
		if b.Len()%100_000 < 10_000 {
			b.WriteString(strings.Repeat("<p>\n", r.IntN(300)))
		}
	}
	return b.Bytes()[:n]
}

func inflate(t testing.TB, src []byte) ([]byte, *Stream) {
	t.Helper()
	plain, s, err := Inflate([]byte("dst "), src, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	plain, ok := bytes.CutPrefix(plain, []byte("dst "))
	if !ok || s.Plain() != len(plain) {
		t.Fatalf("%d bytes, want %d", len(plain), s.Plain())
	}
	return plain, s
}

// roundTrip checks that what Describe makes of the stream in src restores it, and
// returns the recipe, or nil if it gave up.
func roundTrip(t testing.TB, c *Codec, src []byte, runs func() Runs) []byte {
	t.Helper()
	plain, s := inflate(t, src)
	if runs == nil {
		runs = func() Runs { return nil }
	}
	c.Work, c.Guesses = 1<<28, 1<<28
	recipe, ok := c.Describe([]byte("dst "), c.Guess(s, plain, unknown), s, plain, runs())
	recipe, kept := bytes.CutPrefix(recipe, []byte("dst "))
	if !kept {
		t.Fatal("what was in dst has changed")
	}
	if !ok {
		if len(recipe) > 0 {
			t.Fatal("gave up, and left bytes")
		}
		return nil
	}
	c.Work = 1 << 28
	got, err := c.Restore([]byte("dst "), recipe, plain, runs(), s.Size())
	if err != nil {
		t.Fatalf("%x: %v", recipe, err)
	}
	if want := append([]byte("dst "), src[:s.Size()]...); !bytes.Equal(got, want) {
		t.Fatal("the stream came back different")
	}
	if _, err := c.Restore(nil, recipe, plain, runs(), s.Size()-1); !errors.Is(err, ErrMalformed) {
		t.Fatalf("one byte over the limit: %v", err)
	}
	return recipe
}

// exact fails unless the recipe has no corrections.
func exact(t testing.TB, recipe []byte) {
	t.Helper()
	if len(recipe) != 2 {
		t.Errorf("recipe of %d bytes", len(recipe))
	}
}

// The streams in testdata were made by GNU gzip 1.12 and zlib 1.2.13 of plain.html.
func TestTestdata(t *testing.T) {
	want, err := os.ReadFile("testdata/plain.html")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/*.[gz]z")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	// What is not made by the usual search takes more: how many bytes at most.
	odd := map[string]int{
		"zlib-filtered.zz":      500,
		"zlib-huffman.zz":       -1,
		"zlib-fixed.zz":         12,
		"zlib-sync-flush.zz":    100,
		"zlib-full-flush.zz":    -1, // nothing is found across
		"zlib-partial-flush.zz": 100,
		"zlib-window-9.zz":      -1,
	}
	var c Codec
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			src = src[2:]
			if strings.HasSuffix(name, ".gz") {
				src = src[8:]
			}
			plain, s := inflate(t, src)
			if !bytes.Equal(plain, want) || !s.Complete() {
				t.Fatal("wrong plain bytes")
			}
			recipe := roundTrip(t, &c, src, nil)
			most, isOdd := odd[name]
			switch {
			case !isOdd:
				exact(t, recipe)
			case len(recipe) > most && most >= 0 || recipe == nil && most >= 0:
				t.Errorf("recipe of %d bytes, want at most %d", len(recipe), most)
			}

			// Cut anywhere, it is what its whole blocks are.
			for _, n := range []int{0, 1, 50, len(src) / 2, len(src) - 9} {
				if _, s, err := Inflate(nil, src[:n], 1<<20); err == nil {
					if s.Complete() && s.Size() > n {
						t.Errorf("%d bytes are complete", n)
					}
					roundTrip(t, &c, src[:n], nil)
				}
			}
		})
	}
}

// A recipe is to mean the same to all nodes: these were made once, and are the same whenever
// the predictor is.
func TestRecipesStay(t *testing.T) {
	files, err := filepath.Glob("testdata/*.[gz]z")
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile("testdata/changed-9.gzip")
	if err != nil {
		t.Fatal(err)
	}
	_, of := inflate(t, base[10:])
	h := sha256.New()
	var c Codec
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		src = src[2:]
		if strings.HasSuffix(file, ".gz") {
			src = src[8:]
		}
		plain, s := inflate(t, src)
		for _, m := range []Model{unknown, 1, 3, 5, 9, 0x86, 0x99, 0x14} {
			for _, runs := range []Runs{nil, sameBut(of, 9730, 9735, 12, len(plain))()} {
				c.Work = 1 << 28
				recipe, _ := c.Describe(nil, m, s, plain, runs)
				fmt.Fprintf(h, "%x\n", recipe)
			}
		}
	}
	const want = "245ac73102f3f39246bb7177c04180d551d2c8339398fa534512ec193a340f48"
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
		t.Errorf("the recipes have changed: %s", got)
	}
}

// gzip is not everywhere, and not everywhere GNU's.
func TestGzip(t *testing.T) {
	version, err := exec.Command("gzip", "--version").Output()
	if err != nil || !bytes.Contains(version, []byte("Free Software Foundation")) {
		t.Skip("no GNU gzip")
	}
	plain := text(300_000, 1)
	var c Codec
	for level := 1; level <= 9; level++ {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			src := gzip(t, plain, level)
			recipe := roundTrip(t, &c, src, nil)
			exact(t, recipe)
			if got := Model(recipe[0]); got != Model(level) {
				t.Errorf("model %#x", got)
			}
		})
	}
}

func gzip(t testing.TB, plain []byte, level int) []byte {
	t.Helper()
	cmd := exec.Command("gzip", fmt.Sprintf("-%dn", level))
	cmd.Stdin = bytes.NewReader(plain)
	gz, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return gz[10:] // with the trailer, which is not of the stream
}

func goFlate(t testing.TB, plain []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// same are runs as if all were the same but for the bytes from at to to, of which there were
// n before.
func sameBut(s *Stream, at, to, n, size int) func() Runs {
	return func() Runs {
		return func(pos int) Run {
			switch {
			case pos < at:
				return Run{From: 0, To: at, Of: s, At: 0}
			case pos < to:
				return Run{From: at, To: to}
			default:
				return Run{From: to, To: size, Of: s, At: at + n}
			}
		}
	}
}

// A stream that changed in one place needs a search there only, and one of an unknown
// compressor few corrections.
func TestRuns(t *testing.T) {
	const size, at = 250_000, 100_000
	old := text(size, 2)
	plain := append(append(bytes.Clone(old[:at]), "<p>This is new.</p>"...), old[at+9:]...)
	var c Codec
	for _, test := range []struct {
		level int
		most  int // bytes of the recipe
	}{
		{flate.HuffmanOnly, 4000}, {0, 100}, {1, 5000}, {6, 5000}, {9, 5000},
	} {
		t.Run(fmt.Sprint("flate ", test.level), func(t *testing.T) {
			_, base := inflate(t, goFlate(t, old, test.level))
			runs := sameBut(base, at, at+19, 9, len(plain))
			src := goFlate(t, plain, test.level)
			recipe := roundTrip(t, &c, src, runs)
			if recipe == nil || len(recipe) > test.most {
				t.Errorf("recipe of %d bytes for %d", len(recipe), len(src))
			}
		})
	}
	for _, level := range []int{1, 3, 4, 6, 9} {
		t.Run(fmt.Sprint("gzip ", level), func(t *testing.T) {
			if _, err := exec.LookPath("gzip"); err != nil {
				t.Skip(err)
			}
			_, base := inflate(t, gzip(t, old, level))
			src := gzip(t, plain, level)
			_, s := inflate(t, src)
			// Each stream is restored twice.
			unsearched := 2 * (len(plain) + tokenWork*len(s.tokens) + blockWork*len(s.blocks))
			recipe := roundTrip(t, &c, src, sameBut(base, at, at+19, 9, len(plain)))
			if recipe == nil || len(recipe) > 20 {
				t.Errorf("recipe of %d bytes", len(recipe))
			}
			with := 1<<28 - c.Work - unsearched
			roundTrip(t, &c, src, nil)
			if without := 1<<28 - c.Work - unsearched; with > without*3/4 {
				t.Errorf("%d steps, and %d without runs", with, without)
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	noise := make([]byte, 80_000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	var c Codec
	for name, plain := range map[string][]byte{
		"empty":     nil,
		"one":       []byte("a"),
		"three":     []byte("aaa"),
		"zeros":     make([]byte, 100_000),
		"noise":     noise,
		"fibonacci": fibonacci(),
		"text":      text(40_000, 3),
		"mixed":     append(append(text(20_000, 4), noise[:70_000]...), text(20_000, 4)...),
	} {
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 6, 9} {
			t.Run(fmt.Sprint(name, level), func(t *testing.T) {
				src := goFlate(t, plain, level)
				roundTrip(t, &c, src, nil)
				roundTrip(t, &c, append(src, "and what follows"...), nil)
			})
		}
		if _, err := exec.LookPath("gzip"); err != nil {
			continue
		}
		for _, level := range []int{1, 6, 9} {
			t.Run(fmt.Sprint(name, " gzip ", level), func(t *testing.T) {
				recipe := roundTrip(t, &c, gzip(t, plain, level), nil)
				if len(recipe) > 40 || recipe == nil {
					t.Errorf("recipe of %d bytes", len(recipe))
				}
			})
		}
	}
}

// fibonacci has bytes that occur so often that their codes would get too long.
func fibonacci() []byte {
	var b []byte
	r := rand.New(rand.NewPCG(1, 1))
	for i, n, next := 0, 1, 1; i < 20; i, n, next = i+1, next, n+next {
		b = append(b, bytes.Repeat([]byte{byte(i * 7)}, n)...)
	}
	r.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
	return b
}

func TestInflateLimits(t *testing.T) {
	bomb := goFlate(t, make([]byte, 1<<20), 9)
	for _, level := range []int{0, 1, 9} {
		src := goFlate(t, text(10_000, 1), level)
		if _, _, err := Inflate(nil, src, 10_000); err != nil {
			t.Errorf("level %d: %v", level, err)
		}
		if out, s, err := Inflate([]byte("dst"), src, 9_999); !errors.Is(err, errTooLarge) || s != nil || len(out) > 3+9_999 {
			t.Errorf("level %d: one byte over the limit: %v", level, err)
		}
	}
	if out, _, err := Inflate(nil, bomb, 1000); !errors.Is(err, errTooLarge) || cap(out) > 10_000 {
		t.Errorf("bomb: %d bytes, %v", cap(out), err)
	}
}

// Whatever is refused here is refused, or read the same, by compress/flate.
func TestInflateDamaged(t *testing.T) {
	src := goFlate(t, text(3000, 5), 6)
	var c Codec
	for n := range src {
		damaged := bytes.Clone(src)
		for bit := range 8 {
			damaged[n] = src[n] ^ 1<<bit
			checkInflate(t, damaged)
			if n%16 == 0 {
				if _, _, err := Inflate(nil, damaged, 1<<20); err == nil {
					roundTrip(t, &c, damaged, nil)
				}
			}
		}
		checkInflate(t, src[:n])
	}
}

func checkInflate(t testing.TB, src []byte) {
	t.Helper()
	want, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(src)), 1<<20+1))
	got, s, err2 := Inflate(nil, src, 1<<20)
	if err2 != nil {
		return
	}
	if s.Complete() && (err != nil || !bytes.Equal(got, want)) {
		t.Fatalf("%x: %d bytes, want %d, %v", src, len(got), len(want), err)
	}
	if !bytes.HasPrefix(want, got) && len(got) <= len(want) {
		t.Fatalf("%x: other bytes", src)
	}
}

func TestRestoreHostile(t *testing.T) {
	plain := []byte("abcabcabcabc")
	for name, recipe := range map[string][]byte{
		"empty":                          {},
		"no fill":                        {9},
		"no level":                       {0x80, 0},
		"level 10":                       {10, 0},
		"memory 10":                      {0xa9, 0},
		"number cut":                     {9, 0, 0x80},
		"match without length":           {0, 0, 0<<2 | kindMatch},
		"match without distance":         {0, 0, 3<<2 | kindMatch, 0},
		"match before the start":         {0, 0, 3<<2 | kindMatch, 0, 3},
		"match of 64 KiB":                {0, 0, 3<<2 | kindMatch, 0, 0x80, 0x80, 0x04},
		"match behind the end":           {0, 0, 3<<2 | kindMatch, 9, 2},
		"literal behind the end":         {0, 0, 12<<2 | kindLiteral},
		"stored after a token":           {0, 0, 1<<2 | kindStored, 0},
		"stored without length":          {0, 0, kindStored},
		"stored, longer than all":        {0, 0, kindStored, 13 << 2},
		"stored, more than 64 KiB":       {0, 0, kindStored, 0x80, 0x80, 0x10},
		"stored, more is 3":              {0, 0, kindStored, 12<<2 | 3},
		"stored, cut before the end":     {0, 0, kindStored, 11<<2 | moreCut},
		"codes without more":             {0, 0, 13<<2 | codesFixed},
		"codes, more is 3":               {0, 0, 13<<2 | codesFixed, 3},
		"codes, empty before the end":    {0, 0, 5<<2 | kindEnd, codesPredicted, moreEmpty},
		"codes without lengths":          {0, 0, 13<<2 | codesOther, 0},
		"codes with bad lengths":         append([]byte{0, 0, 13<<2 | codesOther, 0}, bytes.Repeat([]byte{0xff}, 400)...),
		"correction after the end":       {0, 0, 14<<2 | kindLiteral},
		"another block that is not said": {0, 0, 13 << 2, moreEmpty, 0xfc},
	} {
		var c Codec
		c.Work = 1000
		if got, err := c.Restore(nil, recipe, plain, nil, 100); !errors.Is(err, ErrMalformed) || got != nil {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	// It takes no more work than there is.
	p, c := text(10_000, 1), Codec{Work: 1 << 20}
	packed, err := c.Restore(nil, []byte{9, 0}, p, nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	_, s := inflate(t, packed)
	unsearched := len(p) + tokenWork*len(s.tokens) + blockWork*len(s.blocks)
	for name, test := range map[string]struct {
		work   int
		recipe []byte
		plain  []byte
	}{
		"search": {unsearched, []byte{9, 0}, p},
		"tokens": {20_000, []byte{0, 0}, p},
		"blocks": {200_000, append([]byte{0, 0}, bytes.Repeat([]byte{1 << 2, moreEmpty}, 1000)...), nil},
		"bytes":  {9_000, append([]byte{0, 0, kindStored}, binary.AppendUvarint(nil, 10_000<<2)...), p},
	} {
		c := Codec{Work: test.work}
		if _, err := c.Restore(nil, test.recipe, test.plain, nil, 1<<20); !errors.Is(err, errWork) {
			t.Errorf("little work for %s: %v", name, err)
		}
		if c.Work < -10_000 {
			t.Errorf("%s: %d steps too many", name, -c.Work)
		}
	}
	// Empty blocks without end, within the limit.
	if _, err := c.Restore(nil, append([]byte{0, 0, kindEnd}, bytes.Repeat([]byte{0, 0, 2}, 1000)...), plain, nil, 50); err == nil {
		t.Error("empty blocks")
	}
}
