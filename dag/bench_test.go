package dag

import (
	"fmt"
	"path/filepath"
	"testing"
)

// benchTree is a site of 2,000 pages of 25 KB, 50 MB together.
func benchTree(b *testing.B) (string, int64) {
	tr, total := tree{}, 0
	page := randomBytes(25<<10, 1)
	for i := range 2000 {
		content := fmt.Sprint(i) + page
		tr[fmt.Sprintf("%d/%d.html", i%50, i)] = content
		total += len(content)
	}
	return tr.write(b), int64(total)
}

func BenchmarkImport(b *testing.B) {
	path, bytes := benchTree(b)
	b.SetBytes(bytes)
	for b.Loop() {
		if _, err := Import(b.Context(), discard{}, path, ImportOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkImportLargeFile(b *testing.B) { benchLargeFile(b, Chunker{}) }

func BenchmarkImportLargeFileFastCDC(b *testing.B) { benchLargeFile(b, Chunker{byContent}) }

func benchLargeFile(b *testing.B, c Chunker) {
	const size = 128 << 20
	path := tree{"f": randomBytes(size, 1)}.write(b)
	b.SetBytes(size)
	for b.Loop() {
		if _, err := Import(b.Context(), discard{}, path, ImportOptions{Chunker: c}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExtract(b *testing.B) {
	path, bytes := benchTree(b)
	m, res := importTree(b, unixfsV1, path, ImportOptions{})
	dir := b.TempDir()
	b.SetBytes(bytes)
	n := 0
	for b.Loop() {
		n++
		if _, err := Extract(b.Context(), m, res.Root, filepath.Join(dir, fmt.Sprint(n)), ExtractOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWalk(b *testing.B) {
	path, _ := benchTree(b)
	m, res := importTree(b, unixfsV1, path, ImportOptions{})
	for b.Loop() {
		if _, err := walkAll(b, m, res.Root); err != nil {
			b.Fatal(err)
		}
	}
}
