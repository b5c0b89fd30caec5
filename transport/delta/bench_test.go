package delta

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// pair is a block and what it was before.
type pair struct{ base, target []byte }

// benchPairs is what BenchmarkAppend and BenchmarkApply run over: pages that changed a date,
// pages with edited lines, directories, compressed pages; or if POLLUX_DELTA_SITES names two versions of a
// site, "old:new", each chunk of 1 MiB that differs from the one in the same place before.
func benchPairs(b *testing.B) map[string][]pair {
	if sites := os.Getenv("POLLUX_DELTA_SITES"); sites != "" {
		dirs := filepath.SplitList(sites)
		if len(dirs) != 2 {
			b.Fatalf("POLLUX_DELTA_SITES is %q, want two directories", sites)
		}
		return map[string][]pair{filepath.Base(dirs[1]): sitePairs(b, dirs[0], dirs[1])}
	}
	pairs := map[string][]pair{}
	for i := range uint64(200) {
		lines := 100 + int(i)*10
		old := page(lines, i, "May 12")
		pairs["footers"] = append(pairs["footers"], pair{old, page(lines, i, "October 7")})
		pairs["edits"] = append(pairs["edits"], pair{old, edit(old, 50, i)})
		if i%20 == 0 {
			pairs["compressed"] = append(pairs["compressed"], pair{gzipped(b, old), gzipped(b, edit(old, 50, i))})
		}
		pairs["directories"] = append(pairs["directories"], pair{directory(byte(i)), directory(byte(i) + 1)})
	}
	return pairs
}

// directory is like the node of one: a hash, a name and a size for each of 100 entries.
func directory(seed byte) []byte {
	var d []byte
	hashes := random(100*32, seed)
	for i := range 100 {
		d = append(d, 0x12, 0x37, 0x0a, 0x24, 0x01, 0x55, 0x12, 0x20)
		d = append(d, hashes[i*32:][:32]...)
		d = append(d, 0x12, 0x0c)
		d = append(d, page(1, uint64(i), "")[13:25]...)
		d = append(d, 0x18, 0x80+byte(i)^seed, 0x95, 0x01)
	}
	return append(d, 0x0a, 0x02, 0x08, 0x01)
}

func sitePairs(b *testing.B, before, after string) (pairs []pair) {
	const chunk = 1 << 20
	err := filepath.WalkDir(after, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		target, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		base, err := os.ReadFile(before + path[len(after):])
		if err != nil {
			return nil // a new file has no base
		}
		for len(target) > 0 {
			p := pair{base[:min(chunk, len(base))], target[:min(chunk, len(target))]}
			base, target = base[len(p.base):], target[len(p.target):]
			if !bytes.Equal(p.base, p.target) {
				pairs = append(pairs, p)
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return pairs
}

// BenchmarkAppend also reports the bytes of the deltas in relation to those of the blocks
// that they make: as they are, and compressed in batches that make 256 KiB or a little more.
func BenchmarkAppend(b *testing.B) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		b.Fatal(err)
	}
	for name, pairs := range benchPairs(b) {
		b.Run(name, func(b *testing.B) {
			var e Encoder
			var dst, batch []byte
			raw, plain, packed, made := 0, 0, 0, 0
			flush := func() {
				packed += len(z.EncodeAll(batch, nil))
				batch, made = batch[:0], 0
			}
			for _, p := range pairs {
				n := len(batch)
				batch = e.Append(batch, p.base, p.target)
				plain += len(batch) - n
				raw += len(p.target)
				if made += len(p.target); made >= 256<<10 {
					flush()
				}
			}
			flush()
			b.SetBytes(int64(raw))
			for b.Loop() {
				for _, p := range pairs {
					dst = e.Append(dst[:0], p.base, p.target)
				}
			}
			b.ReportMetric(1e6*float64(plain)/float64(raw), "plain-ppm")
			b.ReportMetric(1e6*float64(packed)/float64(raw), "packed-ppm")
		})
	}
}

func BenchmarkApply(b *testing.B) {
	for name, pairs := range benchPairs(b) {
		b.Run(name, func(b *testing.B) {
			var e Encoder
			var deltas [][]byte
			raw, largest := 0, 0
			for _, p := range pairs {
				deltas = append(deltas, e.Append(nil, p.base, p.target))
				raw += len(p.target)
				largest = max(largest, len(p.target))
			}
			dst := make([]byte, 0, largest)
			b.SetBytes(int64(raw))
			for b.Loop() {
				for i, p := range pairs {
					if _, err := Apply(dst, deltas[i], p.base, largest); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
