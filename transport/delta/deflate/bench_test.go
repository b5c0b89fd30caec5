package deflate

import (
	"fmt"
	"testing"
)

// The bytes per second are those of plain bytes.
func BenchmarkInflate(b *testing.B) {
	plain := text(1<<20, 1)
	src := goFlate(b, plain, 6)
	b.SetBytes(int64(len(plain)))
	var dst []byte
	for b.Loop() {
		var err error
		if dst, _, err = Inflate(dst[:0], src, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRestore searches for all matches, or for none beside a stream that is the same.
func BenchmarkRestore(b *testing.B) {
	plain := text(1<<20, 1)
	_, s := inflate(b, goFlate(b, plain, 6))
	same := func(int) Run { return Run{From: 0, To: len(plain), Of: s, At: 0} }
	var c Codec
	for _, level := range []int{1, 6, 9} {
		for name, runs := range map[string]Runs{"searched": nil, "same": same} {
			b.Run(fmt.Sprintf("%d/%s", level, name), func(b *testing.B) {
				b.SetBytes(int64(len(plain)))
				var dst []byte
				for b.Loop() {
					c.Work = 1 << 28
					var err error
					if dst, err = c.Restore(dst[:0], []byte{byte(level), 0}, plain, runs, 1<<20); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
