package blockstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"log/slog"
	"testing"
)

// FuzzRecord decodes arbitrary bytes as a record, as they are and with the right
// checksums: it is refused as damaged, or its block is of the length that it names, and
// small enough. What a block is stored as decodes to the block.
func FuzzRecord(f *testing.F) {
	s, err := Open(newMemFS(nil), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range []Block{noise(1, 40), text(2, 200), noise(3, 0)} {
		f.Add(s.appendRecord(nil, b))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		checkRecord(t, s, in)
		if sealed, ok := withChecksums(in); ok {
			checkRecord(t, s, sealed)
		}
		if len(in) > MaxBlockSize {
			return
		}
		b := Sum(0x55, in)
		got, err := s.decodeRecord(s.appendRecord(nil, b))
		if err != nil || !bytes.Equal(got, in) {
			t.Fatalf("%d bytes became %d, %v", len(in), len(got), err)
		}
	})
}

func checkRecord(t *testing.T, s *Store, record []byte) {
	h, err := parseHeader(record)
	if err != nil {
		if err != errBadRecord {
			t.Fatalf("got error %v", err)
		}
		return
	}
	if len(h.mh) == 0 || h.stored > MaxBlockSize || h.raw > MaxBlockSize || h.size() > recordHeader+maxHashLength+MaxBlockSize {
		t.Fatalf("accepted %+v", h)
	}
	if _, ok := soundRecord(record); ok && h.size() > len(record) {
		t.Fatalf("a record of %d bytes is sound in %d", h.size(), len(record))
	}
	data, err := s.decodeRecord(record)
	if err != nil {
		if err != errBadRecord {
			t.Fatalf("got error %v", err)
		}
		return
	}
	if len(data) != int(h.raw) {
		t.Fatalf("%d bytes, the head says %d", len(data), h.raw)
	}
}

// withChecksums returns b, taken for one record, with the magic, length and checksums
// that a record has, so that fuzzing comes past them.
func withChecksums(b []byte) ([]byte, bool) {
	if len(b) < recordHeader {
		return nil, false
	}
	b = bytes.Clone(b)
	end := recordHeader + int(b[21])
	if len(b) < end {
		return nil, false
	}
	copy(b, recordMagic)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-end))
	binary.LittleEndian.PutUint32(b[16:], crc32.Checksum(b[end:], castagnoli))
	binary.LittleEndian.PutUint32(b[4:], headerCRC(b[:end]))
	return b, true
}

// FuzzOpenIndex opens arbitrary bytes as an index, as they are and with the right
// checksums: it is unusable, or every entry that it lists can be looked for.
func FuzzOpenIndex(f *testing.F) {
	const packSize = 4096
	id := packID{1, 2, 3}
	live := newIndex()
	for i := range 5 {
		live.add(keyOf(text(i, 10).CID().Hash()), entry{uint32(packHeader + i), 100, 10})
	}
	whole := live.encode(id, packSize)
	empty := newIndex()
	f.Add(whole)
	f.Add(empty.encode(id, packSize))
	f.Add(whole[:len(whole)-1])
	f.Add(live.encode(packID{9}, packSize))
	f.Fuzz(func(t *testing.T, in []byte) {
		checkIndex(t, in, id, packSize)
		if len(in) < indexHeader {
			return
		}
		in = bytes.Clone(in)
		copy(in, indexMagic)
		binary.LittleEndian.PutUint32(in[8:], formatVersion)
		copy(in[16:], id[:])
		binary.LittleEndian.PutUint64(in[32:], packSize)
		binary.LittleEndian.PutUint32(in[48:], crc32.Checksum(in[indexHeader:], castagnoli))
		binary.LittleEndian.PutUint32(in[52:], crc32.Checksum(in[:52], castagnoli))
		checkIndex(t, in, id, packSize)
	})
}

func checkIndex(t *testing.T, in []byte, id packID, packSize int64) {
	file := &memFile{data: in}
	x, err := openIndex(file, id, packSize)
	if err != nil {
		if !errors.Is(err, errBadIndex) {
			t.Fatalf("got error %v", err)
		}
		return
	}
	defer x.close()
	if x.size() != int64(len(in)) {
		t.Fatalf("an index of %d bytes has a size of %d", len(in), x.size())
	}
	n := 0
	find := func(k key) {
		if _, _, err := x.find(k); err != nil {
			t.Fatalf("find in a file that did not change: %v", err)
		}
	}
	for l, err := range x.all() {
		if err != nil {
			t.Fatalf("listing a file that did not change: %v", err)
		}
		find(l.key)
		n++
	}
	if n != x.count {
		t.Fatalf("%d entries, %d counted", n, x.count)
	}
	for first := range 256 { // each part of the fan-out, from its start and to its end
		last := key(bytes.Repeat([]byte{0xff}, len(key{})))
		last[0] = byte(first)
		find(key{byte(first)})
		find(last)
	}
}
