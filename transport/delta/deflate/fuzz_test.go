package deflate

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzInflate reads arbitrary bytes as a stream. One that is read is the same for
// compress/flate, and comes back if it is described.
func FuzzInflate(f *testing.F) {
	files, err := filepath.Glob("testdata/*.[gz]z")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src[2:])
		f.Add(src[10:])
	}
	for _, level := range []int{0, 1, 6} {
		f.Add(goFlate(f, text(300, 1), level))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		checkInflate(t, src)
		if _, _, err := Inflate(nil, src, 1<<16); err == nil {
			roundTrip(t, new(Codec), src, nil)
		}
	})
}

// FuzzRestore follows arbitrary recipes, beside a stream that is said to be much the same.
func FuzzRestore(f *testing.F) {
	plain := text(300, 1)
	f.Add([]byte{9, 0}, plain, 0)
	f.Add([]byte{0x86, 7}, plain, 100)
	for _, level := range []int{0, 1, 6} {
		var c Codec
		f.Add(roundTrip(f, &c, goFlate(f, plain, level), nil), plain, 10)
	}
	f.Fuzz(func(t *testing.T, recipe, plain []byte, at int) {
		if len(plain) > 1<<20 || at < 0 || at > len(plain) {
			return
		}
		_, s, err := Inflate(nil, goFlate(t, plain, 6), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, runs := range []Runs{nil, sameBut(s, at, at, 0, len(plain))()} {
			c := Codec{Work: 1 << 20}
			const most = 1 << 16
			got, err := c.Restore([]byte("dst "), recipe, plain, runs, most)
			if err != nil {
				if !errors.Is(err, ErrMalformed) || got != nil {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				continue
			}
			got, ok := bytes.CutPrefix(got, []byte("dst "))
			if !ok || len(got) > most {
				t.Fatalf("%d bytes", len(got))
			}
		}
	})
}

// FuzzRoundTrip compresses arbitrary bytes, long ones too: each is repeated.
func FuzzRoundTrip(f *testing.F) {
	f.Add(text(300, 1), byte(6), byte(0))
	f.Add(text(3000, 2), byte(9), byte(20))
	f.Add([]byte{0}, byte(1), byte(255))
	f.Add([]byte("abcab"), byte(0), byte(255))
	f.Fuzz(func(t *testing.T, plain []byte, level, more byte) {
		n := 1 + int(more)
		if n*len(plain) > 1<<16 {
			return
		}
		plain = bytes.Repeat(plain, n)
		src := goFlate(t, plain, int(level)%10)
		got, s := inflate(t, src)
		if !bytes.Equal(got, plain) || !s.Complete() {
			t.Fatal("wrong plain bytes")
		}
		c := new(Codec)
		roundTrip(t, c, src, nil)
		recipe := roundTrip(t, c, src, func() Runs {
			return func(int) Run { return Run{From: 0, To: len(plain), Of: s, At: 0} }
		})
		if recipe == nil && len(src) > 1000 && n == 1 {
			t.Error("gave up, with a stream that is the same")
		}
	})
}
