package dag

import (
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/encoding/protowire"

	"pollux/blockstore"
)

var (
	// ErrMalformed reports a block whose bytes match its CID but do not decode:
	// the fault of whoever made the block, not of whoever sent it.
	ErrMalformed = errors.New("malformed block")
	// ErrCodec reports a block of a codec other than raw and dag-pb, whose links
	// this package cannot read.
	ErrCodec = errors.New("unsupported codec")
)

// Link points from a node to another block.
type Link struct {
	Name string // any bytes; empty in the nodes of a file
	CID  cid.Cid
	Size uint64 // Tsize: bytes of all blocks below, as the node's maker claims
}

// Node is a dag-pb block: links to other blocks, and data whose meaning is
// UnixFS's. A nil Data is absent, an empty one is not.
//
// See https://ipld.io/specs/codecs/dag-pb/spec/.
type Node struct {
	Links []Link
	Data  []byte
}

// Field numbers of PBNode and PBLink.
const (
	fieldData  = 1
	fieldLinks = 2

	fieldHash  = 1
	fieldName  = 2
	fieldTsize = 3
)

// Encode returns the node in canonical form: links before data, and in each link
// Hash, Name and Tsize, which are always written, as Kubo does. Links keep their
// order; the format wants them sorted bytewise by name.
func (n Node) Encode() []byte {
	out := make([]byte, 0, n.encodedSize())
	for _, l := range n.Links {
		out = protowire.AppendTag(out, fieldLinks, protowire.BytesType)
		out = protowire.AppendVarint(out, uint64(l.bodySize()))
		out = protowire.AppendTag(out, fieldHash, protowire.BytesType)
		out = protowire.AppendString(out, l.CID.KeyString())
		out = protowire.AppendTag(out, fieldName, protowire.BytesType)
		out = protowire.AppendString(out, l.Name)
		out = protowire.AppendTag(out, fieldTsize, protowire.VarintType)
		out = protowire.AppendVarint(out, l.Size)
	}
	if n.Data != nil {
		out = protowire.AppendTag(out, fieldData, protowire.BytesType)
		out = protowire.AppendBytes(out, n.Data)
	}
	return out
}

// tagSize is the encoded size of a tag whose field number is below 16.
const tagSize = 1

// encodedSize returns the length of Encode's result.
func (n Node) encodedSize() int {
	size := 0
	for _, l := range n.Links {
		size += tagSize + protowire.SizeBytes(l.bodySize())
	}
	if n.Data != nil {
		size += tagSize + protowire.SizeBytes(len(n.Data))
	}
	return size
}

func (l Link) bodySize() int {
	return tagSize + protowire.SizeBytes(l.CID.ByteLen()) +
		tagSize + protowire.SizeBytes(len(l.Name)) +
		tagSize + protowire.SizeVarint(l.Size)
}

// DecodeNode decodes a dag-pb block of at most blockstore.MaxBlockSize bytes. It
// keeps no reference to data's links but the node's Data aliases data.
//
// It accepts what the specification and go-codec-dagpb accept, the legacy form
// with data before links included, with two exceptions that no encoder ever
// wrote: varints longer than they need be, and bytes after the CID in a Hash.
// Links are checked for their form only: whether a block under a link's CID can be
// verified is checked when it is to be read. Errors wrap ErrMalformed.
func DecodeNode(data []byte) (Node, error) {
	n, err := decodeNode(data)
	if err != nil {
		return Node{}, fmt.Errorf("%w: dag-pb: %w", ErrMalformed, err)
	}
	return n, nil
}

func decodeNode(b []byte) (Node, error) {
	if len(b) > blockstore.MaxBlockSize {
		return Node{}, blockstore.ErrTooLarge
	}
	var n Node
	linksClosed := false
	for len(b) > 0 {
		num, typ, rest, err := consumeTag(b)
		if err != nil {
			return Node{}, err
		}
		if typ != protowire.BytesType {
			return Node{}, fmt.Errorf("field %d has wire type %d", num, typ)
		}
		body, rest, err := consumeBytes(rest)
		if err != nil {
			return Node{}, err
		}
		b = rest
		switch num {
		case fieldLinks:
			if linksClosed {
				return Node{}, errors.New("links in two places")
			}
			l, err := decodeLink(body)
			if err != nil {
				return Node{}, fmt.Errorf("link %d: %w", len(n.Links), err)
			}
			n.Links = append(n.Links, l)
		case fieldData:
			if n.Data != nil {
				return Node{}, errors.New("two data fields")
			}
			n.Data = body
			linksClosed = len(n.Links) > 0
		default:
			return Node{}, fmt.Errorf("unknown field %d", num)
		}
	}
	return n, nil
}

func decodeLink(b []byte) (Link, error) {
	var l Link
	last := protowire.Number(0)
	for len(b) > 0 {
		num, typ, rest, err := consumeTag(b)
		if err != nil {
			return Link{}, err
		}
		if num <= last {
			return Link{}, fmt.Errorf("field %d after field %d", num, last)
		}
		last = num
		switch {
		case num == fieldHash && typ == protowire.BytesType:
			var hash []byte
			if hash, rest, err = consumeBytes(rest); err != nil {
				return Link{}, err
			}
			if l.CID, err = cid.Cast(hash); err != nil {
				return Link{}, err
			}
		case num == fieldName && typ == protowire.BytesType:
			var name []byte
			if name, rest, err = consumeBytes(rest); err != nil {
				return Link{}, err
			}
			l.Name = string(name)
		case num == fieldTsize && typ == protowire.VarintType:
			if l.Size, rest, err = consumeVarint(rest); err != nil {
				return Link{}, err
			}
		default:
			return Link{}, fmt.Errorf("unknown field %d of wire type %d", num, typ)
		}
		b = rest
	}
	if !l.CID.Defined() {
		return Link{}, errors.New("no hash")
	}
	return l, nil
}

// Links returns the links of a block: those of a dag-pb node, none for a raw
// block, and ErrCodec for any other codec.
func Links(b blockstore.Block) ([]Link, error) {
	switch b.CID().Type() {
	case cid.Raw:
		return nil, nil
	case cid.DagProtobuf:
		n, err := DecodeNode(b.Data())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b.CID(), err)
		}
		return n.Links, nil
	}
	return nil, codecError(b.CID())
}

func codecError(c cid.Cid) error {
	return fmt.Errorf("%s: %w 0x%x", c, ErrCodec, c.Type())
}
