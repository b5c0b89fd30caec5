package dag

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

func TestParseChunker(t *testing.T) {
	for in, want := range map[string]Chunker{
		"fastcdc":      {byContent},
		"size-1":       {1},
		"size-1048576": {},
		"size-2097152": {blockstore.MaxBlockSize},
	} {
		c, err := ParseChunker(in)
		if err != nil || c != want || c.String() != in {
			t.Errorf("%q: got %+v, %q, %v", in, c, c, err)
		}
	}
	for _, in := range []string{
		"", "size", "size-", "size-0", "size--1", "size-+1", "size-2097153", "size-1e3", "size-1 ", "1048576",
		"size-18446744073709551616", "Size-1", "FastCDC", "rabin", "fastcdc-512",
	} {
		if c, err := ParseChunker(in); err == nil || !strings.Contains(err.Error(), "size-N") || !strings.Contains(err.Error(), "fastcdc") {
			t.Errorf("%q: got %s, %v", in, c, err)
		}
	}
}

func TestImportChunkSizeLikeBoxo(t *testing.T) {
	const mib = 1 << 20
	path := filepath.Join(tree{"file": randomBytes(3*mib+7, 9)}.write(t), "file")
	for _, size := range []int{1000, 256 << 10, mib, 2 * mib} {
		for _, preserve := range []bool{false, true} {
			sameAsBoxo(t, unixfsV1, path, ImportOptions{Chunker: Chunker{size}, Preserve: preserve})
		}
	}
	tiny := filepath.Join(tree{"file": randomBytes(2000, 9)}.write(t), "file")
	sameAsBoxo(t, unixfsV1, tiny, ImportOptions{Chunker: Chunker{1}})
}

// leafSizes returns how long the leaves of a file are, in order.
func leafSizes(t *testing.T, m *memStore, c cid.Cid) (sizes []int) {
	t.Helper()
	if c.Type() == cid.Raw {
		return []int{len(m.blocks[c].Data())}
	}
	links, err := Links(m.blocks[c])
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		sizes = append(sizes, leafSizes(t, m, l.CID)...)
	}
	return sizes
}

// The cuts are fixed: others would give every file another root.
func TestFastCDCGolden(t *testing.T) {
	tests := []struct {
		name, content string
		cuts          []int
		root          string
	}{
		{"random", newKeystream(t, "fastcdc").bytes(t, 4<<20),
			[]int{545051, 658069, 701559, 235140, 542077, 540591, 614898, 356919},
			"bafybeiaowjr3xsbdl3ampsgp5jh64huihg5ivfp2i3txhkdsdqdh6rbyyq"},
		{"zeros", string(make([]byte, 5<<20)), []int{2 << 20, 2 << 20, 1 << 20}, "bafybeigaovz2ehh3cdczxoiarqtpzmt2ax56bt2qphizbv7i4epjr3mhvm"},
		{"one chunk at most", randomBytes(fastCDCMin, 1), []int{fastCDCMin}, "bafkreig2imxporpcjntkmqialebqam6q5n5zxjbtdsayndn2i4vvew6fim"},
		{"empty", "", []int{0}, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(tree{"f": tt.content}.write(t), "f")
			for _, workers := range []int{1, 2, 7} {
				m, res := importTree(t, unixfsV1, path, ImportOptions{Chunker: Chunker{byContent}, Workers: workers})
				if cuts := leafSizes(t, m, res.Root); !slices.Equal(cuts, tt.cuts) || res.Root.String() != tt.root {
					t.Errorf("%d workers: root %s, chunks %d", workers, res.Root, cuts)
				}
			}
		})
	}
}

// Files of all shapes keep their content, whoever stores which chunk; a file of one
// chunk is a leaf.
func TestImportFastCDC(t *testing.T) {
	shapes := map[string]profile{"one row": unixfsV1, "many rows": {chunkSize: 1, maxLinks: 3, maxDirSize: 1000}}
	tr := tree{}
	for _, size := range []int{1, fastCDCMin - 1, fastCDCMin, fastCDCMin + 1, fastCDCAverage, fastCDCMax, 9 << 20} {
		tr[fmt.Sprint(size)] = randomBytes(size, byte(size>>10))
	}
	top := tr.write(t)
	for name, p := range shapes {
		t.Run(name, func(t *testing.T) {
			var roots []cid.Cid
			for _, workers := range []int{1, 2, 7} {
				m, res := importTree(t, p, top, ImportOptions{Chunker: Chunker{byContent}, Workers: workers})
				roots = append(roots, res.Root)
				for e, err := range List(t.Context(), m, res.Root) {
					if err != nil {
						t.Fatal(err)
					}
					var got bytes.Buffer
					if err := WriteFile(t.Context(), m, e.CID, &got); err != nil || got.String() != tr[e.Name] {
						t.Errorf("%s: %d bytes, %v", e.Name, got.Len(), err)
					}
					sizes := leafSizes(t, m, e.CID)
					if len(sizes) == 1 && e.CID.Type() != cid.Raw {
						t.Errorf("%s: a node above a single leaf", e.Name)
					}
					for i, size := range sizes {
						if size > fastCDCMax || size < fastCDCMin && i < len(sizes)-1 {
							t.Errorf("%s: chunk %d of %d bytes", e.Name, i, size)
						}
					}
				}
			}
			if roots[0] != roots[1] || roots[0] != roots[2] {
				t.Errorf("roots %s", roots)
			}
		})
	}
}

// A version of a large file with a few bytes more near its start costs about the chunks
// around them.
func TestFastCDCInsertion(t *testing.T) {
	content := randomBytes(24<<20, 3)
	before := tree{"f": content}.write(t)
	after := tree{"f": content[:100_000] + "some more" + content[100_000:]}.write(t)
	cost := func(c Chunker) (newBytes int64) {
		m := newMemStore()
		for _, top := range []string{before, after} {
			res, err := Import(t.Context(), m, top, ImportOptions{Chunker: c})
			if err != nil {
				t.Fatal(err)
			}
			newBytes = res.NewBytes
		}
		return newBytes
	}
	if fixed := cost(Chunker{}); fixed < 24<<20 {
		t.Errorf("with chunks of a fixed size, %d bytes are new", fixed)
	}
	if n := cost(Chunker{byContent}); n > fastCDCMax {
		t.Errorf("%d bytes are new", n)
	}
}

// A secret is found however short the chunks are.
func TestImportSecretInChunks(t *testing.T) {
	top := tree{"tls.key": strings.Repeat("# comment\n", 1000) + "-----BEGIN PRIVATE KEY-----\n"}.write(t)
	for _, c := range []Chunker{{}, {7}, {byContent}} {
		m := newMemStore()
		if _, err := Import(context.Background(), m, top, ImportOptions{Chunker: c}); !errors.Is(err, ErrSecret) || len(m.blocks) > 0 {
			t.Errorf("%s: %v, %d blocks", c, err, len(m.blocks))
		}
	}
}
