package blockstore

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
	"github.com/multiformats/go-multihash"
)

// A record is one block in a pack (docs/format.md):
//
//	 0  magic       4 bytes "PXR\x01"
//	 4  header CRC  u32, CRC-32C of bytes 8 to 24 and the multihash
//	 8  stored      u32, length of the payload
//	12  raw         u32, length of the block
//	16  payload CRC u32, CRC-32C of the payload
//	20  encoding    u8, 0 plain, 1 one zstd frame
//	21  hash length u8
//	22  zero        u16
//	24  multihash
//	    payload
//
// Integers are little-endian. The header has its own checksum so that a damaged
// payload does not hide where the next record starts, and a magic so that a
// damaged header does not hide the records behind it.
const (
	recordMagic   = "PXR\x01"
	recordHeader  = 24
	maxHashLength = 255 // that fits; CheckCID allows digests of 128 bytes

	plain    = 0
	zstdData = 1

	// A block is stored compressed only where that saves a tenth of it: less
	// is not worth a decompression at each read.
	minSaving = 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errBadRecord = errors.New("damaged record")

// key names a block in the index: the digest of a SHA2-256 multihash, and for
// any other multihash its SHA-512/256. The functions differ so that nobody can
// craft a block whose digest is another one's key.
type key [32]byte

func keyOf(mh multihash.Multihash) key {
	if isSHA256(mh) {
		return key(mh[2:])
	}
	return sha512.Sum512_256(mh)
}

// header is the parsed head of a record.
type header struct {
	stored, raw uint32
	payloadCRC  uint32
	encoding    byte
	mh          multihash.Multihash
}

// size returns the length of the whole record.
func (h header) size() int { return recordHeader + len(h.mh) + int(h.stored) }

// parseHeader reads the head of a record from the start of b, which may hold
// more. It fails with errBadRecord if b does not start with a whole, sound head.
// The multihash is not copied.
func parseHeader(b []byte) (header, error) {
	if len(b) < recordHeader || string(b[:4]) != recordMagic {
		return header{}, errBadRecord
	}
	h := header{
		stored:     binary.LittleEndian.Uint32(b[8:]),
		raw:        binary.LittleEndian.Uint32(b[12:]),
		payloadCRC: binary.LittleEndian.Uint32(b[16:]),
		encoding:   b[20],
	}
	hashLen := int(b[21])
	switch {
	case h.stored > MaxBlockSize || h.raw > MaxBlockSize,
		h.encoding > zstdData,
		h.encoding == plain && h.stored != h.raw,
		hashLen == 0 || hashLen > maxHashLength,
		len(b) < recordHeader+hashLen:
		return header{}, errBadRecord
	}
	h.mh = b[recordHeader : recordHeader+hashLen]
	if headerCRC(b[:recordHeader+hashLen]) != binary.LittleEndian.Uint32(b[4:]) {
		return header{}, errBadRecord
	}
	return h, nil
}

func headerCRC(b []byte) uint32 { return crc32.Checksum(b[8:], castagnoli) }

// appendRecord appends the record of b to dst.
func (s *Store) appendRecord(dst []byte, b Block) []byte {
	dst, payload := s.startRecord(dst, b)
	return append(dst, payload...)
}

// startRecord appends the record of b to dst, but for a payload that is b's bytes as
// they are, which it returns.
func (s *Store) startRecord(dst []byte, b Block) (start, payload []byte) {
	mh := b.cid.Hash()
	first := len(dst)
	dst = append(dst, make([]byte, recordHeader)...)
	dst = append(dst, mh...)
	body := len(dst)
	encoding, payload := byte(plain), b.data
	switch {
	case b.packed != nil:
		dst = append(dst, b.packed...)
	case s.shrinks(b.data, dst[body:]):
		dst = s.encoder.EncodeAll(b.data, dst)
	}
	if n := len(dst) - body; n > 0 && n <= len(b.data)-len(b.data)/minSaving {
		encoding, payload = zstdData, dst[body:]
	} else {
		dst = dst[:body]
	}
	head := dst[first:body]
	copy(head, recordMagic)
	binary.LittleEndian.PutUint32(head[8:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(b.data)))
	binary.LittleEndian.PutUint32(head[16:], crc32.Checksum(payload, castagnoli))
	head[20] = encoding
	head[21] = byte(len(mh))
	binary.LittleEndian.PutUint32(head[4:], headerCRC(head))
	if encoding == zstdData {
		payload = nil // it is in dst
	}
	return dst, payload
}

// A large block is compressed only if a sample of it shrinks, taken in so many pieces of
// so many bytes: pictures, archives and films are most of the bytes of large blocks, and
// to find out by compressing all of them takes a third of the time of hashing them.
const (
	sampleFrom   = 128 << 10 // bytes of a large block
	samplePieces = 16
	samplePiece  = 1 << 10
)

// shrinks says whether it is worth trying to compress data. It may write to the room
// behind scratch.
func (s *Store) shrinks(data, scratch []byte) bool {
	if len(data) < sampleFrom {
		return true
	}
	var sample [samplePieces * samplePiece]byte
	for i := range samplePieces {
		copy(sample[i*samplePiece:], data[i*(len(data)-samplePiece)/(samplePieces-1):][:samplePiece])
	}
	return len(s.encoder.EncodeAll(sample[:], scratch)) < len(sample)-len(sample)/(4*minSaving)
}

// decodeRecord returns the bytes of the block in record, which is all of one
// record. The result does not share memory with record. It fails with
// errBadRecord; that the bytes match a CID is for NewBlock to check.
func (s *Store) decodeRecord(record []byte) ([]byte, error) {
	h, err := parseHeader(record)
	if err != nil {
		return nil, err
	}
	if h.size() != len(record) {
		return nil, errBadRecord
	}
	payload := record[recordHeader+len(h.mh):]
	if h.encoding == plain {
		return append(make([]byte, 0, len(payload)), payload...), nil
	}
	data, err := s.decoder.DecodeAll(payload, make([]byte, 0, h.raw))
	if err != nil || len(data) != int(h.raw) {
		return nil, errBadRecord
	}
	return data, nil
}

func newCodec() (*zstd.Encoder, *zstd.Decoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, nil, fmt.Errorf("zstd: %w", err)
	}
	// A frame that claims or yields more than a block is damaged or hostile.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxBlockSize))
	if err != nil {
		return nil, nil, fmt.Errorf("zstd: %w", err)
	}
	return enc, dec, nil
}
