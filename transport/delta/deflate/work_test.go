package deflate

import (
	"bytes"
	"compress/flate"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever is described can be restored with the same Work, to the step; and what is not for one
// step too few, cannot.
func TestDescribeWork(t *testing.T) {
	files, err := filepath.Glob("testdata/*.[gz]z")
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string][]byte{}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if src = src[2:]; strings.HasSuffix(file, ".gz") {
			src = src[8:]
		}
		streams[filepath.Base(file)] = src
	}
	noise := make([]byte, 80_000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	streams["empty"] = goFlate(t, nil, 6)
	streams["stored at the end"] = goFlate(t, append(text(20_000, 4), noise...), 6)
	described := 0
	for name, src := range streams {
		t.Run(name, func(t *testing.T) {
			plain, s := inflate(t, src)
			const most = 1 << 28
			c := Codec{Work: most, Guesses: most}
			m := c.Guess(s, plain, unknown)
			recipe, ok := c.Describe(nil, m, s, plain, nil)
			if !ok {
				return // whatever its Work
			}
			described++
			took := most - c.Work
			for _, work := range []int{took, took - 1} {
				c.Work = work
				_, ok := c.Describe(nil, m, s, plain, nil)
				if left := c.Work; ok != (work == took) || left != work-took {
					t.Errorf("described with %d of %d steps: %v, %d left", work, took, ok, left)
				}
				c.Work = work
				_, err := c.Restore(nil, recipe, plain, nil, s.Size())
				if left := c.Work; (err == nil) != (work == took) || left != work-took {
					t.Errorf("restored with %d of %d steps: %v, %d left", work, took, err, left)
				}
			}
		})
	}
	if described < 10 {
		t.Errorf("%d streams were described", described)
	}
}

// costly is a stream of one block in which the search for matches takes more than 400 steps
// for a plain byte.
func costly(t testing.TB, size int) (plain []byte, s *Stream) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	plain = make([]byte, size)
	for i := range plain {
		plain[i] = "ab"[r.IntN(2)]
	}
	const work = 1 << 30
	c := Codec{Work: work}
	src, err := c.Restore(nil, []byte{0x99, 0}, plain, nil, size)
	if err != nil {
		t.Fatal(err)
	}
	if _, s = inflate(t, src); len(s.blocks) != 1 || work-c.Work < 400*size {
		t.Fatalf("%d blocks, %d steps", len(s.blocks), work-c.Work)
	}
	return plain, s
}

// lastSearches is how many steps the last prediction may take that finds that there were too few:
// two searches, and some at the places before.
const lastSearches = 1 << 18

// Describe gives up within a block, which may have a million of tokens, and Guess within a stream.
func TestDescribeKeepsToWork(t *testing.T) {
	plain, s := costly(t, 100_000)
	const work = 1 << 19
	c := Codec{Work: work}
	if recipe, ok := c.Describe(nil, 0x99, s, plain, nil); ok || len(recipe) > 0 {
		t.Errorf("described by %d bytes", len(recipe))
	}
	if c.Work < -lastSearches {
		t.Errorf("%d steps, want at most %d", work-c.Work, work)
	}
	for _, likely := range []Model{unknown, 6, 0x99} {
		c := Codec{Guesses: work}
		if m := c.Guess(s, plain, likely); m != likely {
			t.Errorf("guessed %#x, want the likely %#x as there is nothing better", m, likely)
		}
		if c.Guesses < -lastSearches {
			t.Errorf("%d steps to guess, want at most %d", work-c.Guesses, work)
		}
	}
}

// Tokens and blocks count where a search finds nothing, too.
func TestGuessCountsTokensAndBlocks(t *testing.T) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.HuffmanOnly)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 8<<10)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for i := range noise {
		noise[i] &= 0x7f // or it is stored
	}
	w.Write(noise)
	const flushes = 100
	for range flushes {
		w.Flush() // an empty stored block each
	}
	w.Close()
	plain, s := inflate(t, b.Bytes())
	const guesses = 1 << 30
	c := Codec{Guesses: guesses}
	c.Guess(s, plain, unknown)
	// Some models are seen to be worse soon, but most are tried to the end.
	least := 7 * (tokenWork*len(plain) + flushes*blockWork)
	if took := guesses - c.Guesses; took < least {
		t.Errorf("%d steps, want %d at least", took, least)
	}
}

// What made one stream has likely made the next: the others are tried only if that is wrong.
func TestGuessTriesTheLikelyFirst(t *testing.T) {
	plain := text(100_000, 1)
	var streams [2]*Stream
	for i, m := range []Model{6, 9} {
		c := Codec{Work: 1 << 28}
		src, err := c.Restore(nil, []byte{byte(m), 0}, plain, nil, len(plain))
		if err != nil {
			t.Fatal(err)
		}
		_, streams[i] = inflate(t, src)
	}
	guess := func(s *Stream, likely Model) (m Model, took int) {
		c := Codec{Guesses: 1 << 28}
		m = c.Guess(s, plain, likely)
		return m, 1<<28 - c.Guesses
	}
	m, all := guess(streams[0], unknown)
	if m != 6 {
		t.Fatalf("guessed %#x", m)
	}
	if m, took := guess(streams[0], 6); m != 6 || took >= all {
		t.Errorf("guessed %#x in %d steps, and in %d without a likely one", m, took, all)
	}
	if m, _ := guess(streams[1], 6); m != 9 {
		t.Errorf("guessed %#x, though that is wrong", m)
	}
}
