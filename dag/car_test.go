package dag

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	carstore "github.com/ipld/go-car/v2/blockstore"

	"pollux/blockstore"
)

// section frames data as CARs do.
func section(parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	return append(binary.AppendUvarint(nil, uint64(len(body))), body...)
}

func blockSection(b blockstore.Block) []byte { return section(b.CID().Bytes(), b.Data()) }

// carHeader returns a header with its length.
func carHeader(t testing.TB, root cid.Cid) []byte {
	t.Helper()
	h, err := encodeCARHeader(root)
	if err != nil {
		t.Fatal(err)
	}
	return section(h)
}

// carV2 puts a CARv1 into a CARv2, with padding around it and an index that is none.
func carV2(payload []byte) []byte {
	const padding = 7
	offset := uint64(car.PragmaSize + car.HeaderSize + padding)
	b := slices.Clone(car.Pragma)
	b = append(b, make([]byte, car.CharacteristicsSize)...)
	b = binary.LittleEndian.AppendUint64(b, offset)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(payload)))
	b = binary.LittleEndian.AppendUint64(b, offset+uint64(len(payload))+padding)
	b = append(b, "padding"...)
	b = append(b, payload...)
	return append(b, "paddingindex"...)
}

// readCAR returns what ReadCAR finds.
func readCAR(r io.Reader) (roots []cid.Cid, blocks []blockstore.Block, err error) {
	roots, err = ReadCAR(r, func(b blockstore.Block) error {
		blocks = append(blocks, b)
		return nil
	})
	return roots, blocks, err
}

// sampleCAR returns a tree with files of several chunks and what WriteCAR makes of it.
func sampleCAR(t testing.TB) (m *memStore, root cid.Cid, data []byte) {
	t.Helper()
	m, res := importTree(t, profile{chunkSize: 10_000, maxLinks: 4, maxDirSize: 500}, siteTree().write(t), ImportOptions{})
	m.gets = 0
	var out bytes.Buffer
	if err := WriteCAR(t.Context(), m, res.Root, &out); err != nil {
		t.Fatal(err)
	}
	return m, res.Root, out.Bytes()
}

func TestCARRoundTrip(t *testing.T) {
	m, root, data := sampleCAR(t)
	want, err := walkAll(t, m, root)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"v1":               bytes.NewReader(data),
		"v2":               bytes.NewReader(carV2(data)),
		"a byte at a time": iotest.OneByteReader(bytes.NewReader(carV2(data))),
	} {
		t.Run(name, func(t *testing.T) {
			roots, blocks, err := readCAR(r)
			if err != nil || !slices.Equal(roots, []cid.Cid{root}) {
				t.Fatalf("got roots %v, error %v", roots, err)
			}
			var got []cid.Cid
			for _, b := range blocks {
				got = append(got, b.CID())
				if !bytes.Equal(b.Data(), m.blocks[b.CID()].Data()) {
					t.Errorf("%s differs", b.CID())
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %d blocks, want %d in the order of Walk", len(got), len(want))
			}
		})
	}
}

// Each block is asked for once, although Walk reads nodes and so does WriteCAR.
func TestWriteCARGetsOnce(t *testing.T) {
	m, root, _ := sampleCAR(t)
	gets := m.gets
	visited, err := walkAll(t, m, root)
	if err != nil || gets != len(visited) {
		t.Errorf("%d reads of %d blocks, %v", gets, len(visited), err)
	}
}

func TestWriteCARSmall(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "file", "hello")
	inline := Link{Name: "inline", CID: identityCID(t, cid.Raw, []byte("here"))}
	dir := m.putDir(t, "dir", file, inline, Link{Name: "same", CID: file.CID})
	for _, tt := range []struct {
		name   string
		root   cid.Cid
		blocks []cid.Cid
	}{
		{"raw", file.CID, []cid.Cid{file.CID}},
		{"repeated and identity", dir.CID, []cid.Cid{dir.CID, file.CID}},
		{"identity root", inline.CID, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := carHeader(t, tt.root)
			for _, c := range tt.blocks {
				want = append(want, blockSection(m.blocks[c])...)
			}
			var got bytes.Buffer
			err := WriteCAR(t.Context(), m, tt.root, &got)
			if err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("got %x, %v\nwant %x", got.Bytes(), err, want)
			}
			roots, _, err := readCAR(&got)
			if err != nil || !slices.Equal(roots, []cid.Cid{tt.root}) {
				t.Errorf("read back: %v, %v", roots, err)
			}
		})
	}
}

func TestWriteCARFails(t *testing.T) {
	m, root, data := sampleCAR(t)
	if err := WriteCAR(t.Context(), newMemStore(), root, io.Discard); !errors.Is(err, errNotHeld) {
		t.Errorf("missing root: %v", err)
	}
	r, w := io.Pipe()
	r.Close()
	if err := WriteCAR(t.Context(), m, root, w); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("closed pipe: %v", err)
	}
	if err := WriteCAR(t.Context(), m, cid.NewCidV1(cid.DagCBOR, root.Hash()), io.Discard); err == nil {
		t.Error("wrote a DAG in a codec whose links it cannot read")
	}
	full := errors.New("full")
	if _, err := ReadCAR(bytes.NewReader(data), func(blockstore.Block) error { return full }); err != full {
		t.Errorf("put failed, got %v", err)
	}
	broken := io.MultiReader(bytes.NewReader(data[:len(data)/2]), iotest.ErrReader(full))
	if _, _, err := readCAR(broken); err != full {
		t.Errorf("reading failed, got %v", err)
	}
}

// go-car reads what we write.
func TestCARForGoCAR(t *testing.T) {
	m, root, data := sampleCAR(t)
	wantSame(t, data, []cid.Cid{root}, len(m.blocks))
	wantSame(t, carV2(data), []cid.Cid{root}, len(m.blocks))
}

// wantSame checks that go-car reads what ReadCAR does.
func wantSame(t testing.TB, data []byte, roots []cid.Cid, count int) {
	t.Helper()
	theirs, err := car.NewBlockReader(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("go-car: %v", err)
	}
	ourRoots, ours, err := readCAR(bytes.NewReader(data))
	if err != nil || !slices.Equal(ourRoots, theirs.Roots) || !slices.Equal(ourRoots, roots) || len(ours) != count {
		t.Fatalf("got roots %v, %d blocks, %v; want %v, %d blocks", ourRoots, len(ours), err, roots, count)
	}
	for _, b := range ours {
		want, err := theirs.Next()
		if err != nil || !want.Cid().Equals(b.CID()) || !bytes.Equal(want.RawData(), b.Data()) {
			t.Fatalf("go-car has %v, %v instead of %s", want, err, b.CID())
		}
	}
	if b, err := theirs.Next(); err != io.EOF {
		t.Fatalf("go-car has one more: %v, %v", b, err)
	}
}

// We read what go-car writes, with several roots, its index and blocks of other
// hashes and codecs.
func TestCARFromGoCAR(t *testing.T) {
	m, root, _ := sampleCAR(t)
	other, err := cid.Prefix{Version: 1, Codec: cid.DagCBOR, MhType: 0x1e /* BLAKE3 */, MhLength: 32}.Sum([]byte{0xf6})
	if err != nil {
		t.Fatal(err)
	}
	v0 := blockstore.Sum(cid.DagProtobuf, []byte("\n\x02\x08\x02"))
	roots := []cid.Cid{root, other, cid.NewCidV0(v0.CID().Hash())}
	all := []blocks.Block{newBlock(t, other, []byte{0xf6}), newBlock(t, roots[2], v0.Data())}
	for c, b := range m.blocks {
		all = append(all, newBlock(t, c, b.Data()))
	}
	for name, opts := range map[string][]car.Option{
		"v1":        {carstore.WriteAsCarV1(true)},
		"v2":        {},
		"v2 padded": {car.UseDataPadding(1413), car.UseIndexPadding(41)},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/site.car"
			w, err := carstore.OpenReadWrite(path, roots, opts...)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.PutMany(t.Context(), all); err != nil {
				t.Fatal(err)
			}
			if err := w.Finalize(); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, data, roots, len(all))
		})
	}
}

func newBlock(t testing.TB, c cid.Cid, data []byte) blocks.Block {
	t.Helper()
	b, err := blocks.NewBlockWithCid(data, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadCARRefuses(t *testing.T) {
	b := blockstore.Sum(cid.Raw, []byte("hello"))
	header := carHeader(t, b.CID())
	good := slices.Concat(header, blockSection(b))
	flipped := slices.Clone(good)
	flipped[len(flipped)-1] ^= 1
	pragma := len(car.Pragma)
	v2 := carV2(good)
	v2With := func(offset, size uint64) []byte {
		v := slices.Clone(v2)
		binary.LittleEndian.PutUint64(v[pragma+16:], offset)
		binary.LittleEndian.PutUint64(v[pragma+24:], size)
		return v
	}
	cborHeader := func(s string) []byte { return section([]byte(s)) }
	short, err := cid.Prefix{Version: 1, Codec: cid.Raw, MhType: 0x12, MhLength: 8}.Sum([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		car  []byte
		want string
	}{
		"empty":                   {nil, "at byte 0: cut off"},
		"no length":               {[]byte{0x80}, "at byte 0: cut off"},
		"header cut off":          {header[:9], "at byte 0: cut off"},
		"block cut off":           {good[:len(good)-1], "at byte 59: cut off"},
		"only a length":           {slices.Concat(header, []byte{41}), "at byte 59: cut off"},
		"half a length":           {slices.Concat(header, []byte{0x80}), "at byte 59: cut off"},
		"flipped byte":            {flipped, b.CID().String() + ": bytes do not match their CID"},
		"long varint":             {slices.Concat(header, []byte{0x80, 0x00}), "minimally"},
		"endless varint":          {slices.Concat(header, bytes.Repeat([]byte{0xff}, 100)), "at byte 59: varints"},
		"huge section":            {slices.Concat(header, binary.AppendUvarint(nil, math.MaxInt64)), "section of 9223372036854775807 bytes"},
		"block over the limit":    {slices.Concat(header, section(b.CID().Bytes(), make([]byte, blockstore.MaxBlockSize+1))), "block larger"},
		"padding":                 {slices.Concat(good, make([]byte, 100)), "at byte 101: section without a length"},
		"no CID":                  {slices.Concat(header, section([]byte("nonsense"))), "at byte 59"},
		"weak hash":               {slices.Concat(header, section(short.Bytes(), []byte("hello"))), "digest too small"},
		"huge header":             {binary.AppendUvarint(nil, maxCARHeader+1), "section of 1048577 bytes"},
		"header not CBOR":         {cborHeader("nonsense"), "at byte 0: header"},
		"header and more":         {cborHeader(string(header[1:]) + "x"), "at byte 0: header"},
		"header of many values":   {cborHeader("\xa1\x65roots\x9a\x00\x0f\x00\x00" + strings.Repeat("\x00", 0xf0000)), "too many resources"},
		"header claims too much":  {cborHeader("\xa1\x65roots\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"), "at byte 0: header"},
		"header nested":           {cborHeader(strings.Repeat("\x81", 1<<16)), "at byte 0: header"},
		"header without version":  {cborHeader("\xa1\x65roots\x80"), "version"},
		"version in words":        {cborHeader("\xa2\x65roots\x80\x67version\x611"), "at byte 0: header"},
		"no roots":                {cborHeader("\xa2\x65roots\x80\x67version\x01"), "no roots"},
		"roots left out":          {cborHeader("\xa1\x67version\x01"), "no roots"},
		"roots no list":           {cborHeader("\xa2\x65roots\x01\x67version\x01"), "no roots"},
		"roots no links":          {cborHeader("\xa2\x65roots\x81\x01\x67version\x01"), "root 0"},
		"many roots":              {section(manyRoots(t, maxCARRoots+1, b.CID())), "1025 roots"},
		"version 3":               {cborHeader("\xa1\x67version\x03"), "version 3"},
		"v2, nothing else":        {car.Pragma, "at byte 11: cut off"},
		"v2, header cut off":      {v2[:pragma+39], "at byte 11: cut off"},
		"v2, padding cut off":     {v2[:pragma+42], "at byte 11: cut off"},
		"v2, offset in header":    {v2With(50, 10), "payload of 10 bytes at byte 50"},
		"v2, offset overflows":    {v2With(math.MaxUint64, 10), "payload of 10"},
		"v2, size overflows":      {v2With(51, math.MaxUint64), "payload of"},
		"v2, both overflow":       {v2With(math.MaxInt64, 1), "payload of 1"},
		"v2, offset beyond end":   {v2With(1<<40, 10), "at byte 11: cut off"},
		"v2, empty payload":       {v2With(58, 0), "at byte 58: cut off"},
		"v2, payload in a block":  {v2With(58, uint64(len(good))-1), "at byte 117: section goes beyond the payload"},
		"v2, payload in a length": {v2With(58, uint64(len(header))), ""},
		"v2, cut off at a block":  {v2[:58+len(header)], "at byte 117: cut off"},
		"v2 in v2":                {carV2(carV2(good)), "version 2"},
	} {
		t.Run(name, func(t *testing.T) {
			roots, _, err := readCAR(bytes.NewReader(tt.car))
			if tt.want == "" {
				if err != nil || len(roots) != 1 {
					t.Errorf("got %v, %v", roots, err)
				}
				return
			}
			if !errors.Is(err, ErrCAR) || !strings.Contains(err.Error(), tt.want) || roots != nil {
				t.Errorf("got %v, %v; want an ErrCAR with %q", roots, err, tt.want)
			}
		})
	}
}

// Wherever a CARv2 ends too soon, that shows; a CARv1 may end after any block.
func TestReadCARCutOff(t *testing.T) {
	b := blockstore.Sum(cid.Raw, []byte("hello"))
	v1 := slices.Concat(carHeader(t, b.CID()), blockSection(b), blockSection(blockstore.Sum(cid.Raw, nil)))
	v2 := carV2(v1)
	for n := range len(v2) - len("paddingindex") {
		if _, _, err := readCAR(bytes.NewReader(v2[:n])); !errors.Is(err, ErrCAR) {
			t.Errorf("CARv2 of %d bytes: got %v", n, err)
		}
	}
	whole := 0
	for n := range len(v1) {
		if _, _, err := readCAR(bytes.NewReader(v1[:n])); err == nil {
			whole++
		} else if !errors.Is(err, ErrCAR) {
			t.Errorf("CARv1 of %d bytes: got %v", n, err)
		}
	}
	if whole != 2 {
		t.Errorf("%d beginnings of a CARv1 of two blocks are whole, want 2", whole)
	}
}

// manyRoots returns a header that names c n times.
func manyRoots(t testing.TB, n int, c cid.Cid) []byte {
	t.Helper()
	one, err := encodeCARHeader(c)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := bytes.Cut(one, []byte("\x65roots\x81"))
	link := rest[:len(rest)-len("\x67version\x01")]
	list := binary.BigEndian.AppendUint16([]byte("\x65roots\x99"), uint16(n))
	return slices.Concat(before, list, bytes.Repeat(link, n), rest[len(link):])
}

func TestReadCARMostRoots(t *testing.T) {
	c := blockstore.Sum(cid.Raw, nil).CID()
	roots, _, err := readCAR(bytes.NewReader(section(manyRoots(t, maxCARRoots, c))))
	if err != nil || len(roots) != maxCARRoots {
		t.Errorf("got %d roots, %v", len(roots), err)
	}
}

// FuzzReadCAR checks that what ReadCAR accepts go-car reads alike.
func FuzzReadCAR(f *testing.F) {
	b := blockstore.Sum(cid.Raw, []byte("hello"))
	v1 := slices.Concat(carHeader(f, b.CID()), blockSection(b), blockSection(blockstore.Sum(cid.DagProtobuf, nil)))
	f.Add(v1)
	f.Add(carV2(v1))
	f.Add(section(manyRoots(f, 3, b.CID())))
	f.Fuzz(func(t *testing.T, in []byte) {
		roots, blocks, err := readCAR(bytes.NewReader(in))
		if err != nil {
			if !errors.Is(err, ErrCAR) {
				t.Fatalf("not an ErrCAR: %v", err)
			}
			return
		}
		wantSame(t, in, roots, len(blocks))
	})
}
