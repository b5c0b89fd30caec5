package exchange

import (
	"encoding/binary"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"

	"pollux/blockstore"
)

// A body is what INDEX, DATA and BLOCKS carry: pieces, each of which stands for one
// block. Decoded it is the head of every piece, a uvarint length<<2|kind, and then their
// bytes one after the other.
type body struct {
	count    int
	encoding byte
	raw      int // bytes when decoded
	payload  []byte
	// front is the payload with headRoom bytes before it, where the rest of the frame can
	// be put to spare a copy; nil if there is none.
	front []byte
}

// headRoom is enough for what stands before the payload of a frame: five uvarints and two
// bytes.
const headRoom = 5*binary.MaxVarintLen64 + 2

const (
	encodingPlain = 0
	encodingZstd  = 1 // one zstd frame
)

// kind says how a piece stands for its block.
type kind byte

const (
	kindBlock   kind = 0 // its bytes
	kindDelta   kind = 1 // a delta against its base
	kindStored  kind = 2 // a zstd frame of its bytes, as the provider has it on disk
	kindMissing kind = 3 // not at all; only in BLOCKS
)

type piece struct {
	kind  kind
	bytes []byte
	hard  bool // they do not shrink, as far as the provider knows
}

func (b body) head() []byte {
	head := binary.AppendUvarint(nil, uint64(b.count))
	head = append(head, b.encoding)
	return binary.AppendUvarint(head, uint64(b.raw))
}

func (f *fields) body() body {
	b := body{count: f.uvarint(maxPieces), encoding: f.byte(), raw: f.uvarint(maxRaw)}
	if f.err != nil {
		return body{}
	}
	b.payload = f.b
	switch {
	case b.encoding > encodingZstd:
		f.fail("unknown encoding %d", b.encoding)
	case b.encoding == encodingPlain && b.raw != len(b.payload):
		f.fail("%d bytes, %d announced", len(b.payload), b.raw)
	case b.encoding == encodingZstd && len(b.payload) > b.raw:
		// Who packs like that has as long as it likes for each block, and the line is full.
		f.fail("%d bytes packed to %d", b.raw, len(b.payload))
	case b.raw < b.count:
		f.fail("%d pieces in %d bytes", b.count, b.raw)
	}
	return b
}

// appendPieces appends pieces as they are in a decoded body.
func appendPieces(dst []byte, pieces []piece) []byte {
	for _, p := range pieces {
		dst = binary.AppendUvarint(dst, uint64(len(p.bytes))<<2|uint64(p.kind))
	}
	for _, p := range pieces {
		dst = append(dst, p.bytes...)
	}
	return dst
}

// pieces decodes b, using the room behind scratch where that is enough.
func (b body) pieces(dec *zstd.Decoder, scratch []byte) ([]piece, error) {
	raw := b.payload
	if b.encoding == encodingZstd {
		if cap(scratch) < b.raw {
			scratch = make([]byte, 0, b.raw)
		}
		var err error
		// The decoder refuses to yield more than maxRaw.
		if raw, err = dec.DecodeAll(b.payload, scratch[:0]); err != nil {
			return nil, violation("zstd: %v", err)
		}
		if len(raw) != b.raw {
			return nil, violation("%d bytes, %d announced", len(raw), b.raw)
		}
	}
	f := fields{b: raw}
	heads := make([]int, b.count)
	total := 0
	for i := range heads {
		heads[i] = f.uvarint(blockstore.MaxBlockSize<<2 | 3)
		total += heads[i] >> 2
	}
	if f.err == nil && total != len(f.b) {
		f.fail("pieces of %d bytes in %d", total, len(f.b))
	}
	pieces := make([]piece, b.count)
	for i, h := range heads {
		pieces[i] = piece{kind: kind(h & 3), bytes: f.bytes(h >> 2)}
	}
	return pieces, f.err
}

// unpack makes the block of a piece of kindStored, which is shorter: nobody stores it otherwise.
func unpack(c cid.Cid, packed []byte) (blockstore.Block, error) {
	b, err := blockstore.Unpack(c, packed)
	if err == nil && len(packed) > len(b.Data()) {
		return blockstore.Block{}, violation("a block of %d bytes packed to %d", len(b.Data()), len(packed))
	}
	return b, err
}

func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxRaw))
}
