package exchange

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
)

// archives is a site of n compressed pages, and as many ZIP files and pictures. Two of the
// same seed have the same but for the line, which is in each, compressed.
func archives(t testing.TB, seed uint64, n int, line string) []blockstore.Block {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 5))
	var blocks []blockstore.Block
	var links []dag.Link
	add := func(name string, data []byte) {
		b := blockstore.Sum(cid.Raw, data)
		blocks = append(blocks, b)
		links = append(links, dag.Link{Name: name, CID: b.CID(), Size: uint64(len(data))})
	}
	for i := range n {
		add(fmt.Sprintf("%03d.html.gz", i), packed(t, text(r, 400, line)))
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		for j := range 3 {
			f, err := w.Create(fmt.Sprintf("%d.txt", j))
			if err == nil {
				_, err = f.Write(text(r, 200, line))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		add(fmt.Sprintf("%03d.zip", i), bytes.Clone(b.Bytes()))
		b.Reset()
		if err := png.Encode(&b, picture(r, line)); err != nil {
			t.Fatal(err)
		}
		add(fmt.Sprintf("%03d.png", i), b.Bytes())
	}
	root := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
	return append([]blockstore.Block{root}, blocks...)
}

// text is so many lines that have little in common, and one in the middle.
func text(r *rand.Rand, lines int, line string) (b []byte) {
	for i := range lines {
		if i == lines/2 {
			b = fmt.Appendf(b, "<p>%s</p>\n", line)
		}
		b = fmt.Appendf(b, "<p>%016x</p>\n", r.Uint64())
	}
	return b
}

// picture is one of 90 x 90 pixels, so that it is one DEFLATE stream, with the line in a
// corner: a byte each pixel.
func picture(r *rand.Rand, line string) image.Image {
	m := image.NewNRGBA(image.Rect(0, 0, 90, 90))
	for y := range 90 {
		for x := range 90 {
			m.SetNRGBA(x, y, color.NRGBA{byte(r.Uint32()), byte(x * y), byte(x + y), 255})
		}
	}
	for x := range len(line) {
		m.SetNRGBA(x, 80, color.NRGBA{line[x], 0, 0, 255})
	}
	return m
}

func packed(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestUpdateOfArchives fetches the next version of a site whose files are compressed, each of
// which has another line in it: as they are stored they have next to nothing in common.
func TestUpdateOfArchives(t *testing.T) {
	t.Parallel()
	old, next := archives(t, 1, 2, "Last change: May 12"), archives(t, 1, 2, "Last change: October 7")
	both := append(slices.Clone(old), next...)
	seed, mirror := newNode(t, both...), newNode(t, old...)
	// What is left is what the compressor of Go does otherwise than expected.
	req := Request{Root: next[0].CID(), Bases: []cid.Cid{old[0].CID()}}
	res, err := mirror.fetch(limit(t), req, seed.info())
	if err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, both)
	if res.Bytes != size(next) || res.Received > size(next)/10 {
		t.Errorf("%+v for a version of %d bytes", res, size(next))
	}
}

// recipes are hostile deltas of a gzip file against another, base, that is like it.
func recipes(base []byte) map[string][]byte {
	const header, trailer = 10, 8 // of gzip
	plain := openedSize(base) - header - trailer
	all := uvarints(0, 1) // an ordinary delta: the base itself
	closing := func(gap, plain, size uint64) []byte {
		return uvarints(3, 1, header, 1, gap, plain, size)
	}
	// with is a delta of one stream whose recipe is r.
	with := func(r ...byte) []byte {
		return concat(closing(header, uint64(plain), uint64(len(r))), r, all)
	}
	// large is an ordinary delta that makes the opened base n times.
	large := func(n int) []byte {
		size := uint64(plain + header + trailer)
		return concat(all, bytes.Repeat(uvarints(2, 2*size-1, 1), n-1))
	}
	times := 15 << 20 / (plain + header + trailer)
	most := uint64(times * (plain + header + trailer))
	return map[string][]byte{
		"2^63 streams":               uvarints(3, 1<<63),
		"257 streams":                append(uvarints(3, 257), make([]byte, 1000)...),
		"stream behind 2^63":         uvarints(3, 1, 1<<63, 0),
		"stream behind the end":      uvarints(3, 1, uint64(len(base)+1), 0),
		"gap of 2^63":                concat(closing(1<<63, 1, 2), []byte{9, 0}, all),
		"plain of 2^63":              concat(closing(header, 1<<63, 2), []byte{9, 0}, all),
		"recipe of 2^63":             concat(closing(header, uint64(plain), 1<<63), []byte{9, 0}, all),
		"plain behind the end":       concat(closing(header, trailer+uint64(plain)+1, 2), []byte{9, 0}, all),
		"level 10":                   with(10, 0),
		"memory 10":                  with(10<<4|9, 0),
		"a match before the start":   with(append([]byte{9, 0, 1, 255}, uvarints(32767)...)...),
		"a stored block of 2^61":     with(append([]byte{9, 0, 3}, uvarints(1<<61<<2)...)...),
		"blocks without end":         with(append([]byte{9, 0}, bytes.Repeat([]byte{2, 0, 0}, 1000)...)...),
		"codes that are none":        with(9, 0, 2, 3, 0, 255, 255, 255, 255),
		"more than may be made":      concat(uvarints(3, 1, header, 0), large(times)),
		"more than may be closed":    concat(closing(0, most, 2), []byte{0, 0}, large(times)),
		"more than may be open":      concat(uvarints(3, 1, header, 0), large(100*times)),
		"a run outside what is open": concat(uvarints(3, 1, header, 0), uvarints(2, 2*(16<<20), 2)),
	}
}

// longSearch is a delta that repeats base up to 15 MiB, and asks for that as gzip -9 packs it.
func longSearch(base []byte) []byte {
	n := uint64(max(len(base), 1))
	times := 15 << 20 / n
	head := concat(uvarints(3, 0, 1, 0, times*n, 2), []byte{9, 0}) // opens nothing, closes all
	return concat(head, uvarints(0, 1), bytes.Repeat(uvarints(2, 2*n-1, 1), int(times-1)))
}

// emptyBlocks is a delta that makes n blocks of a stream from no bytes.
func emptyBlocks(n int) []byte {
	recipe := append([]byte{0, 0}, bytes.Repeat([]byte{1 << 2, 2}, n)...) // the codes are as predicted; another follows
	return concat(uvarints(3, 0, 1, 0, 0, uint64(len(recipe))), recipe)
}

// openedSize is how many bytes a gzip file has whose stream is opened.
func openedSize(file []byte) int {
	r, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		panic(err)
	}
	var b bytes.Buffer
	n, err := b.ReadFrom(r)
	if err != nil {
		panic(err)
	}
	return int(n) + 10 + 8
}

// TestHostileRecipes has a provider send deltas of opened blocks that are broken, or make too
// much. It is banned, an honest one brings what it owed, and memory stays bounded.
func TestHostileRecipes(t *testing.T) {
	files := func(line string) []blockstore.Block {
		r := rand.New(rand.NewPCG(9, 9))
		var blocks []blockstore.Block
		for range 3 {
			blocks = append(blocks, blockstore.Sum(cid.Raw, packed(t, text(r, 150, line))))
		}
		return append([]blockstore.Block{nodeOf(blocks...)}, blocks...)
	}
	old, next := files("May 12"), files("October 7")
	both := append(slices.Clone(old), next...)
	honest, fetcher := newNode(t, both...), newNode(t)
	names := recipes(old[1].Data())
	before := allocated()
	t.Run("all", func(t *testing.T) {
		for name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				mirror := &node{store: newStore(t), client: fetcher.client}
				if err := mirror.store.Put(old...); err != nil {
					t.Fatal(err)
				}
				evil := newActor(t, script{want: wrongData(func(a *actor, leaf int, p piece) piece {
					b, err := a.held.Get(context.Background(), a.order.leafBases.at(leaf))
					if err != nil {
						t.Error(err)
					}
					return piece{kind: kindDelta, bytes: recipes(b.Data())[name]}
				})}, next[0].CID(), old[0].CID(), both...)
				ctx := limit(t)
				candidates := evil.before(ctx, honest)
				req := Request{Store: mirror.store, Root: next[0].CID(), Bases: []cid.Cid{old[0].CID()}}
				if _, err := mirror.client.Fetch(ctx, req, candidates); err != nil {
					t.Fatal(err)
				}
				mirror.checkHeld(t, both)
				if !mirror.client.bans.has(evil.ID()) {
					t.Error("the hostile provider is not banned")
				}
				if mirror.client.bans.has(honest.ID()) {
					t.Error("the honest provider is banned")
				}
			})
		}
	})
	if n := allocated() - before; n > uint64(len(names))*(64<<20) {
		t.Errorf("%d MiB were allocated for %d hostile providers", n>>20, len(names))
	}
}

// allocated is how many bytes were allocated so far, whether or not they are in use.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
