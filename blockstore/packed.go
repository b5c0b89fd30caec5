package blockstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
)

// unpacker decodes packed blocks that come from elsewhere. What it accepts a Store
// accepts too: both are made alike.
var unpacker = sync.OnceValues(func() (*zstd.Decoder, error) {
	_, dec, err := newCodec()
	return dec, err
})

// Unpack decodes packed, a zstd frame, and returns the Block if that hashes to c. It
// fails as NewBlock does, and for bytes that are no such frame, or one of more than
// MaxBlockSize, with an error of its own. A Writer stores the block as it came, which
// saves packing it again; so packed must not be changed until then.
func Unpack(c cid.Cid, packed []byte) (Block, error) {
	dec, err := unpacker()
	if err != nil {
		return Block{}, err
	}
	if len(packed) > MaxBlockSize {
		return Block{}, ErrTooLarge
	}
	data, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return Block{}, fmt.Errorf("unpack %s: %w", c, err)
	}
	b, err := NewBlock(c, data)
	b.packed = packed
	return b, err
}

// Packed returns a block as it is on disk, to be sent to somebody who verifies it: a
// zstd frame of its bytes if packed is true, and its bytes otherwise. Its checksums are
// verified and not its hash, which takes many times as long. size is the length of the
// block. Errors are those of Get.
func (s *Store) Packed(ctx context.Context, c cid.Cid) (data []byte, packed bool, size int, err error) {
	if isIdentity(c) {
		b, err := identityBlock(c)
		return b.data, false, len(b.data), err
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, false, 0, err
		}
		p, e, ok, err := s.lookup(c, nil)
		if err != nil {
			return nil, false, 0, err
		}
		if !ok {
			return nil, false, 0, fmt.Errorf("%s: %w", c, ErrNotFound)
		}
		record := make([]byte, e.size)
		_, err = p.file.ReadAt(record, int64(e.offset))
		if errors.Is(err, fs.ErrClosed) {
			continue // collected meanwhile, as in Get
		}
		if err == nil {
			h, sound := soundRecord(record)
			if sound && h.size() == len(record) && bytes.Equal(h.mh, c.Hash()) {
				return record[recordHeader+len(h.mh):], h.encoding == zstdData, int(h.raw), nil
			}
			err = errBadRecord
		}
		if err := s.damagedAt(p, e, c, err); err != nil {
			return nil, false, 0, err
		}
	}
}
