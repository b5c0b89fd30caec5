package dag

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/encoding/protowire"

	"pollux/blockstore"
)

// unixfsType says what a UnixFS node is.
type unixfsType uint64

const (
	typeRaw       unixfsType = 0 // a leaf of a file
	typeDirectory unixfsType = 1
	typeFile      unixfsType = 2 // a file, a part of one, or a leaf
	typeMetadata  unixfsType = 3 // never in use
	typeSymlink   unixfsType = 4
	typeHAMTShard unixfsType = 5 // a directory in pieces, or one of its pieces
)

func (t unixfsType) String() string {
	switch t {
	case typeRaw:
		return "raw"
	case typeDirectory:
		return "directory"
	case typeFile:
		return "file"
	case typeMetadata:
		return "metadata"
	case typeSymlink:
		return "symlink"
	case typeHAMTShard:
		return "HAMT shard"
	}
	return fmt.Sprintf("type %d", uint64(t))
}

// unixfs is the UnixFS message in a node's Data. Import sets Mode and ModTime only if
// it is told to, since a tree's root then depends on more than names and contents.
//
// See https://specs.ipfs.tech/unixfs/.
type unixfs struct {
	Type       unixfsType
	Data       []byte    // contents, symlink target, or HAMT bitmap; nil is absent
	FileSize   uint64    // of raw and file: bytes of content here and below
	BlockSizes []uint64  // of file: bytes of content below each link
	HashType   uint64    // of HAMT shard
	Fanout     uint64    // of HAMT shard
	Mode       uint32    // permission bits, 0 if not known
	ModTime    time.Time // zero if not known
}

// Field numbers of the UnixFS message and of its timestamp.
const (
	fieldType       = 1
	fieldContent    = 2
	fieldFileSize   = 3
	fieldBlockSizes = 4
	fieldHashType   = 5
	fieldFanout     = 6
	fieldMode       = 7
	fieldModTime    = 8

	fieldSeconds = 1
	fieldNanos   = 2
)

// Encode returns the message as Kubo writes it.
func (u unixfs) Encode() []byte {
	var out []byte
	varint := func(num protowire.Number, v uint64) {
		out = protowire.AppendTag(out, num, protowire.VarintType)
		out = protowire.AppendVarint(out, v)
	}
	varint(fieldType, uint64(u.Type))
	if u.Data != nil {
		out = protowire.AppendTag(out, fieldContent, protowire.BytesType)
		out = protowire.AppendBytes(out, u.Data)
	}
	if u.Type == typeFile || u.Type == typeRaw {
		varint(fieldFileSize, u.FileSize)
	}
	for _, size := range u.BlockSizes {
		varint(fieldBlockSizes, size)
	}
	if u.Type == typeHAMTShard {
		varint(fieldHashType, u.HashType)
		varint(fieldFanout, u.Fanout)
	}
	if u.Mode != 0 {
		varint(fieldMode, uint64(u.Mode))
	}
	if !u.ModTime.IsZero() {
		var ts []byte
		ts = protowire.AppendTag(ts, fieldSeconds, protowire.VarintType)
		ts = protowire.AppendVarint(ts, uint64(u.ModTime.Unix()))
		if nanos := u.ModTime.Nanosecond(); nanos != 0 {
			ts = protowire.AppendTag(ts, fieldNanos, protowire.Fixed32Type)
			ts = protowire.AppendFixed32(ts, uint32(nanos))
		}
		out = protowire.AppendTag(out, fieldModTime, protowire.BytesType)
		out = protowire.AppendBytes(out, ts)
	}
	return out
}

// decodeUnixFS decodes the UnixFS message in n's Data and checks it against n's
// links. What it returns is consistent:
//
//   - a file has a block size for each link; a raw node and a symlink have no links;
//   - FileSize, which it fills in where the message has none, is the sum of the
//     parts and fits an int64.
//
// Unknown fields are skipped, so that a later version of the format stays
// readable; fields may come in any order, but not twice. Errors wrap ErrMalformed.
func decodeUnixFS(n Node) (unixfs, error) {
	u, hasSize, err := decodeUnixFSMessage(n.Data)
	if err == nil {
		err = u.check(len(n.Links), hasSize)
	}
	if err != nil {
		return unixfs{}, fmt.Errorf("%w: UnixFS: %w", ErrMalformed, err)
	}
	return u, nil
}

// check holds u against its node's number of links, and fills in FileSize.
func (u *unixfs) check(links int, hasSize bool) error {
	switch u.Type {
	case typeRaw, typeFile:
		if len(u.BlockSizes) != links {
			return fmt.Errorf("%d block sizes for %d links", len(u.BlockSizes), links)
		}
		if u.Type == typeRaw && links > 0 {
			return fmt.Errorf("raw node with %d links", links)
		}
		total := uint64(len(u.Data))
		for _, size := range u.BlockSizes {
			if size > math.MaxInt64-total {
				return errors.New("size of file overflows")
			}
			total += size
		}
		if hasSize && u.FileSize != total {
			return fmt.Errorf("size of file is %d, its parts are %d", u.FileSize, total)
		}
		u.FileSize = total
	case typeSymlink:
		if links > 0 {
			return fmt.Errorf("symlink with %d links", links)
		}
	case typeDirectory, typeHAMTShard, typeMetadata:
	default:
		return fmt.Errorf("unknown %s", u.Type)
	}
	return nil
}

func decodeUnixFSMessage(b []byte) (u unixfs, hasSize bool, err error) {
	var seen [fieldModTime + 1]bool
	for len(b) > 0 {
		num, typ, rest, err := consumeTag(b)
		if err != nil {
			return u, false, err
		}
		if num > fieldModTime {
			n := protowire.ConsumeFieldValue(num, typ, rest)
			if n < 0 {
				return u, false, protowire.ParseError(n)
			}
			b = rest[n:]
			continue
		}
		if seen[num] && num != fieldBlockSizes {
			return u, false, fmt.Errorf("field %d twice", num)
		}
		seen[num] = true

		var v uint64
		var body []byte
		switch typ {
		case protowire.VarintType:
			v, b, err = consumeVarint(rest)
		case protowire.BytesType:
			body, b, err = consumeBytes(rest)
		default:
			err = fmt.Errorf("field %d has wire type %d", num, typ)
		}
		if err != nil {
			return u, false, err
		}
		if err := u.set(num, typ, v, body); err != nil {
			return u, false, err
		}
	}
	if !seen[fieldType] {
		return u, false, errors.New("no type")
	}
	return u, seen[fieldFileSize], nil
}

// set stores one field, of which v holds the value of a varint and body that of a
// byte string.
func (u *unixfs) set(num protowire.Number, typ protowire.Type, v uint64, body []byte) error {
	wantBytes := num == fieldContent || num == fieldModTime
	packed := num == fieldBlockSizes && typ == protowire.BytesType // proto2 parsers take both forms
	if wantBytes != (typ == protowire.BytesType) && !packed {
		return fmt.Errorf("field %d has wire type %d", num, typ)
	}
	switch num {
	case fieldType:
		u.Type = unixfsType(v)
	case fieldContent:
		u.Data = body
	case fieldFileSize:
		u.FileSize = v
	case fieldBlockSizes:
		if !packed {
			u.BlockSizes = append(u.BlockSizes, v)
			return nil
		}
		for len(body) > 0 {
			size, rest, err := consumeVarint(body)
			if err != nil {
				return err
			}
			u.BlockSizes = append(u.BlockSizes, size)
			body = rest
		}
	case fieldHashType:
		u.HashType = v
	case fieldFanout:
		u.Fanout = v
	case fieldMode:
		if v > math.MaxUint32 {
			return errors.New("mode overflows")
		}
		u.Mode = uint32(v)
	case fieldModTime:
		t, err := decodeTime(body)
		if err != nil {
			return fmt.Errorf("modification time: %w", err)
		}
		u.ModTime = t
	}
	return nil
}

// Times outside the years 1 to 9999 are refused, as the format says.
const (
	minSeconds = -62135596800
	maxSeconds = 253402300799
)

func decodeTime(b []byte) (time.Time, error) {
	var seconds, nanos int64
	hasSeconds := false
	last := protowire.Number(0)
	for len(b) > 0 {
		num, typ, rest, err := consumeTag(b)
		if err != nil {
			return time.Time{}, err
		}
		if num <= last {
			return time.Time{}, fmt.Errorf("field %d after field %d", num, last)
		}
		last = num
		switch {
		case num == fieldSeconds && typ == protowire.VarintType:
			var v uint64
			if v, rest, err = consumeVarint(rest); err != nil {
				return time.Time{}, err
			}
			seconds, hasSeconds = int64(v), true
		case num == fieldNanos && typ == protowire.Fixed32Type:
			v, n := protowire.ConsumeFixed32(rest)
			if n < 0 {
				return time.Time{}, protowire.ParseError(n)
			}
			nanos, rest = int64(v), rest[n:]
		default:
			return time.Time{}, fmt.Errorf("unknown field %d of wire type %d", num, typ)
		}
		b = rest
	}
	if !hasSeconds {
		return time.Time{}, errors.New("no seconds")
	}
	if seconds < minSeconds || seconds > maxSeconds || nanos >= 1e9 {
		return time.Time{}, errors.New("out of range")
	}
	return time.Unix(seconds, nanos), nil
}

// decodeBlock decodes a dag-pb block down to its UnixFS message.
func decodeBlock(b blockstore.Block) (Node, unixfs, error) {
	if b.CID().Type() != cid.DagProtobuf {
		return Node{}, unixfs{}, codecError(b.CID())
	}
	n, err := DecodeNode(b.Data())
	if err != nil {
		return Node{}, unixfs{}, fmt.Errorf("%s: %w", b.CID(), err)
	}
	u, err := decodeUnixFS(n)
	if err != nil {
		return Node{}, unixfs{}, fmt.Errorf("%s: %w", b.CID(), err)
	}
	return n, u, nil
}
