package exchange

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"

	"pollux/blockstore"
)

// A frame is a uvarint length, a type byte and a body of length-1 bytes
// (docs/protocol.md). Every WANT is answered in order: by DATA and MISS frames
// that together cover its CIDs one by one, in the order in which they were asked.
type frameType byte

const (
	// HELLO opens each direction of a stream. Its body is empty in this
	// version; receivers ignore up to maxHello bytes of it.
	frameHello frameType = 1
	// WANT: uvarint count, then count times a uvarint length and a CID, and a uvarint
	// length and the CID of a base, or the length 0.
	frameWant frameType = 2
	// DATA: uvarint count, encoding byte, count uvarints, payload. It answers the next
	// count CIDs. A uvarint is twice the length of a block, or of a delta, and one more
	// for a delta.
	frameData frameType = 3
	// MISS: uvarint count. The sender does not hold the next count CIDs.
	frameMiss frameType = 4
)

const (
	maxWants   = 1024      // CIDs in a WANT
	maxCID     = 256       // bytes of a CID
	maxHello   = 1 << 10   // bytes of a HELLO
	batchBytes = 256 << 10 // of a DATA frame's payload before compression, unless one block is larger

	// A DATA frame stands for at most one largest block, or a batch of at most
	// maxWants smaller ones, and takes a few bytes more for each.
	maxDataBytes = blockstore.MaxBlockSize
	maxFrame     = maxDataBytes + 16<<10

	// maxBatchStands is for how many bytes of blocks the deltas of a DATA frame stand at
	// most, unless one block is larger: the fetcher works on a frame as a whole.
	maxBatchStands = 4 << 20

	encodingPlain = 0
	encodingZstd  = 1
)

var errProtocol = errors.New("protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// appendFrame appends a frame to dst. The body is given in parts, to spare a
// copy of the payload.
func appendFrame(dst []byte, t frameType, parts ...[]byte) []byte {
	n := 1
	for _, p := range parts {
		n += len(p)
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = append(dst, byte(t))
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// readFrame reads one frame whose body has at most limit bytes. It returns
// io.EOF only between frames.
func readFrame(r *bufio.Reader, limit int) (frameType, []byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, nil, err
	}
	if n < 1 || n > uint64(limit)+1 {
		return 0, nil, violation("frame of %d bytes", n)
	}
	t, err := r.ReadByte()
	if err != nil {
		return 0, nil, unexpected(err)
	}
	body := make([]byte, n-1)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, unexpected(err)
	}
	return frameType(t), body, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fields reads the varints and runs of bytes of a frame body.
type fields struct{ b []byte }

func (f *fields) uvarint(limit int) (int, error) {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		return 0, violation("bad number")
	}
	if v > uint64(limit) {
		return 0, violation("%d is over the limit of %d", v, limit)
	}
	f.b = f.b[n:]
	return int(v), nil
}

func (f *fields) bytes(n int) ([]byte, error) {
	if n > len(f.b) {
		return nil, violation("frame is cut short")
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b, nil
}

// ask is one entry of a WANT.
type ask struct {
	cid  cid.Cid
	base cid.Cid // a block that the answer may be a delta against; undefined for none
}

func appendWant(dst []byte, asks []ask) []byte {
	body := binary.AppendUvarint(nil, uint64(len(asks)))
	for _, a := range asks {
		for _, c := range []cid.Cid{a.cid, a.base} {
			body = binary.AppendUvarint(body, uint64(c.ByteLen()))
			body = append(body, c.Bytes()...)
		}
	}
	return appendFrame(dst, frameWant, body)
}

func parseWant(body []byte) ([]ask, error) {
	f := fields{body}
	count, err := f.uvarint(maxWants)
	if err != nil {
		return nil, err
	}
	asks := make([]ask, 0, min(count, len(body)))
	for range count {
		var a ask
		if a.cid, err = f.cid(); err != nil {
			return nil, err
		}
		if a.base, err = f.cid(); err != nil {
			return nil, err
		}
		if !a.cid.Defined() {
			return nil, violation("no CID")
		}
		asks = append(asks, a)
	}
	if len(f.b) > 0 {
		return nil, violation("%d bytes too many in WANT", len(f.b))
	}
	return asks, nil
}

// cid reads a length and a CID, which is undefined if the length is 0.
func (f *fields) cid() (cid.Cid, error) {
	n, err := f.uvarint(maxCID)
	if err != nil || n == 0 {
		return cid.Undef, err
	}
	b, err := f.bytes(n)
	if err != nil {
		return cid.Undef, err
	}
	c, err := cid.Cast(b)
	if err != nil {
		return cid.Undef, violation("bad CID: %v", err)
	}
	return c, nil
}

func appendMiss(dst []byte, count int) []byte {
	return appendFrame(dst, frameMiss, binary.AppendUvarint(nil, uint64(count)))
}

func parseMiss(body []byte) (count int, err error) {
	f := fields{body}
	if count, err = f.uvarint(maxWants); err != nil {
		return 0, err
	}
	if count == 0 || len(f.b) > 0 {
		return 0, violation("bad MISS")
	}
	return count, nil
}

// piece is what a DATA frame says of one block.
type piece struct {
	bytes []byte // of the block, or a delta
	delta bool
}

// appendData appends a DATA frame with pieces, which are together at most
// maxDataBytes, compressed into one zstd frame where that saves a tenth.
func appendData(dst []byte, enc *zstd.Encoder, pieces []piece) []byte {
	total := 0
	var lengths []byte
	for _, p := range pieces {
		n := uint64(len(p.bytes)) << 1
		if p.delta {
			n |= 1
		}
		lengths = binary.AppendUvarint(lengths, n)
		total += len(p.bytes)
	}
	payload := make([]byte, 0, total)
	for _, p := range pieces {
		payload = append(payload, p.bytes...)
	}
	encoding := byte(encodingPlain)
	if packed := enc.EncodeAll(payload, make([]byte, 0, total)); len(packed) <= total-total/10 {
		encoding = encodingZstd
		payload = packed
	}
	count := binary.AppendUvarint(nil, uint64(len(pieces)))
	return appendFrame(dst, frameData, count, []byte{encoding}, lengths, payload)
}

// data is a parsed DATA frame: the head is checked, the payload not decoded.
type data struct {
	encoding byte
	lengths  []int  // of each piece
	deltas   []bool // which of them are deltas
	total    int    // sum of the lengths
	payload  []byte
}

func parseData(body []byte) (data, error) {
	f := fields{body}
	count, err := f.uvarint(maxWants)
	if err != nil {
		return data{}, err
	}
	encoding, err := f.bytes(1)
	if err != nil {
		return data{}, err
	}
	room := min(count, len(f.b))
	d := data{encoding: encoding[0], lengths: make([]int, 0, room), deltas: make([]bool, 0, room)}
	if count == 0 || d.encoding > encodingZstd {
		return data{}, violation("bad DATA")
	}
	for range count {
		n, err := f.uvarint(2*blockstore.MaxBlockSize + 1)
		if err != nil {
			return data{}, err
		}
		d.lengths = append(d.lengths, n>>1)
		d.deltas = append(d.deltas, n&1 == 1)
		if d.total += n >> 1; d.total > maxDataBytes {
			return data{}, violation("DATA of over %d bytes", maxDataBytes)
		}
	}
	d.payload = f.b
	if d.encoding == encodingPlain && len(d.payload) != d.total {
		return data{}, violation("DATA of %d bytes, %d announced", len(d.payload), d.total)
	}
	return d, nil
}

// pieces decodes the payload.
func (d data) pieces(dec *zstd.Decoder) ([]piece, error) {
	raw := d.payload
	if d.encoding == encodingZstd {
		var err error
		// The decoder refuses to yield more than maxDataBytes.
		if raw, err = dec.DecodeAll(d.payload, make([]byte, 0, d.total)); err != nil {
			return nil, violation("zstd: %v", err)
		}
		if len(raw) != d.total {
			return nil, violation("DATA holds %d bytes, %d announced", len(raw), d.total)
		}
	}
	pieces := make([]piece, len(d.lengths))
	for i, n := range d.lengths {
		pieces[i], raw = piece{raw[:n:n], d.deltas[i]}, raw[n:]
	}
	return pieces, nil
}

func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
}

func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxDataBytes))
}
