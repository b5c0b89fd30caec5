package dag

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers fastCDC

	"pollux/blockstore"
)

// Chunker says how files are cut into chunks. The zero value is the profile's: chunks
// of 1 MiB.
//
// Chunks of a fixed size all move when bytes are inserted into a file. FastCDC (Xia
// et al., USENIX ATC 2016) cuts where the content says so, and an insertion changes
// only the chunks around it. Its cuts are the same on every machine. Cutting is the
// work of one goroutine for each file: 2.1 GB/s on a core that hashes 2.0 GB/s.
type Chunker struct {
	size int // of a chunk in bytes, or byContent; 0 is the profile's
}

// byContent stands for FastCDC in place of a size.
const byContent = -1

// The parameters of FastCDC: its sizes in bytes, and the version of the library's
// implementation (gear table, masks of normalization level 2). Chunks of random bytes
// are 590 KiB on average. Other values would give every file another root.
const (
	fastCDC        = "fastcdc-v1.0.0"
	fastCDCMin     = 128 << 10
	fastCDCAverage = 512 << 10
	fastCDCMax     = blockstore.MaxBlockSize
)

// ParseChunker reads "size-N", chunks of N bytes from 1 to blockstore.MaxBlockSize, or
// "fastcdc".
func ParseChunker(s string) (Chunker, error) {
	if s == "fastcdc" {
		return Chunker{byContent}, nil
	}
	number, ok := strings.CutPrefix(s, "size-")
	size, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || size < 1 || size > blockstore.MaxBlockSize {
		return Chunker{}, fmt.Errorf("unknown chunker %q: there are fastcdc, and size-N with N from 1 to %d bytes", s, blockstore.MaxBlockSize)
	}
	if size == uint64(unixfsV1.chunkSize) {
		return Chunker{}, nil // so that chunkers that are the same are equal
	}
	return Chunker{int(size)}, nil
}

// String returns what ParseChunker reads.
func (c Chunker) String() string {
	switch c.size {
	case byContent:
		return "fastcdc"
	case 0:
		return fmt.Sprintf("size-%d", unixfsV1.chunkSize)
	}
	return fmt.Sprintf("size-%d", c.size)
}

// with returns p with its files cut by c.
func (p profile) with(c Chunker) profile {
	if c.size != 0 {
		p.chunkSize = c.size
	}
	return p
}

// minChunk returns how long all chunks of a file are at least, but for the last.
func (p profile) minChunk() int64 {
	if p.chunkSize == byContent {
		return fastCDCMin
	}
	return int64(p.chunkSize)
}

// cutter returns a function that returns the length of f's next chunk, told how many
// bytes are left. It is to be called until none are, before the worker's next cutter.
func (w *importWorker) cutter(f *sourceFile) (func(left int64) (int64, error), error) {
	if w.chunkSize != byContent {
		return func(left int64) (int64, error) { return min(left, int64(w.chunkSize)), nil }, nil
	}
	content := io.NewSectionReader(f, 0, f.info.Size())
	if w.fastCDC == nil {
		sizes := chunkers.ChunkerOpts{MinSize: fastCDCMin, NormalSize: fastCDCAverage, MaxSize: fastCDCMax}
		c, err := chunkers.NewChunker(fastCDC, content, &sizes)
		if err != nil {
			return nil, err
		}
		w.fastCDC = c
	} else {
		w.fastCDC.Reset(content)
	}
	return func(int64) (int64, error) {
		data, err := w.fastCDC.Next()
		switch {
		case len(data) > 0: // with io.EOF if it is the last
			return int64(len(data)), nil
		case err == io.EOF:
			return 0, ErrChanged // shorter than it was
		}
		return 0, err
	}, nil
}
