package dag

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/datamodel"
	"github.com/ipld/go-ipld-prime/fluent/qp"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	"github.com/ipld/go-ipld-prime/node/basicnode"
	"github.com/multiformats/go-varint"

	"pollux/blockstore"
)

// ErrCAR reports bytes that are not a whole CAR.
var ErrCAR = errors.New("malformed CAR")

var errCutOff = errors.New("cut off")

const (
	maxCARHeader  = 1 << 20 // bytes
	maxCARRoots   = 1 << 10
	maxCARSection = blockstore.MaxBlockSize + 256 // a block, and any CID that can be verified

	carV2HeaderSize = 40       // bytes, after the pragma
	carBuffer       = 64 << 10 // bytes read or written at a time
)

// WriteCAR writes the DAG below root to w as a CARv1: a header that names root, and
// every block once, in the order of Walk. Identity CIDs, which carry their block, have
// none of their own. The same root gives the same bytes everywhere. It ends with the
// first error of get, of w, or of Walk, and what was written by then is no whole CAR.
//
// See https://ipld.io/specs/transport/car/carv1/.
func WriteCAR(ctx context.Context, get Getter, root cid.Cid, w io.Writer) error {
	header, err := encodeCARHeader(root)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, carBuffer)
	out.Write(binary.AppendUvarint(nil, uint64(len(header)))) // bufio keeps errors for later calls
	out.Write(header)
	// Walk reads a node right after it was visited.
	blocks := &repeater{get: get}
	err = Walk(ctx, blocks, root, func(c cid.Cid) error {
		b, err := load(ctx, blocks, c)
		if err != nil {
			return err
		}
		out.Write(binary.AppendUvarint(nil, uint64(c.ByteLen()+len(b.Data()))))
		out.WriteString(c.KeyString())
		_, err = out.Write(b.Data())
		return err
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// repeater gets a block that is asked for twice in a row once.
type repeater struct {
	get  Getter
	last blockstore.Block
}

func (r *repeater) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if r.last.CID().Equals(c) {
		return r.last, nil
	}
	b, err := r.get.Get(ctx, c)
	if err == nil {
		r.last = b
	}
	return b, err
}

// ReadCAR reads a CARv1 or CARv2 from r to its end. It calls put with every block, in
// the order of the CAR, and returns the roots that the header names: at least one,
// perhaps one twice. Blocks are verified, but nothing says that they form whole DAGs
// below the roots, or that the roots are there. Of a CARv2 only the data payload
// counts; its index, which anybody could forge, is read past.
//
// Errors about the bytes wrap ErrCAR and say where: a CAR that ends within a block or
// before its payload does, a block that does not match its CID or cannot be verified, a
// length that is not in its shortest form, a section of no length (there is no padding
// in a CAR) or larger than a block can be, a header over 1 MiB or with more than 1,024
// roots. Errors of r and put are returned as they are. Memory is bounded by a header or
// a few blocks.
//
// See https://ipld.io/specs/transport/car/carv1/ and
// https://ipld.io/specs/transport/car/carv2/.
func ReadCAR(r io.Reader, put func(blockstore.Block) error) (roots []cid.Cid, err error) {
	in := &carReader{r: bufio.NewReaderSize(r, carBuffer), end: math.MaxInt64}
	version, roots, err := in.header()
	if err == nil && version == 2 {
		if err = in.enterPayload(); err == nil {
			version, roots, err = in.header()
		}
	}
	switch {
	case err != nil:
		return nil, err
	case version != 1:
		return nil, in.malformed(fmt.Errorf("version %d", version))
	case len(roots) == 0:
		return nil, in.malformed(errors.New("no roots"))
	}
	for {
		section, err := in.section(maxCARSection)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		b, err := decodeCARSection(section)
		if err != nil {
			return nil, in.malformed(err)
		}
		if err := put(b); err != nil {
			return nil, err
		}
	}
	// To the end, so that whoever writes into a pipe is not cut off.
	_, err = io.Copy(io.Discard, in.r)
	return roots, err
}

// carReader reads the frame of a CAR.
type carReader struct {
	r     *bufio.Reader
	at    int64 // bytes consumed
	start int64 // where the section read last begins
	end   int64 // where the payload of a CARv2 ends; math.MaxInt64 in a CARv1, which ends with r
}

// malformed says where the section read last begins.
func (in *carReader) malformed(err error) error {
	return fmt.Errorf("%w at byte %d: %w", ErrCAR, in.start, err)
}

// ReadByte implements io.ByteReader, within the payload.
func (in *carReader) ReadByte() (byte, error) {
	if in.at == in.end {
		return 0, io.EOF
	}
	b, err := in.r.ReadByte()
	if err == nil {
		in.at++
	}
	return b, err
}

// readFull fills b.
func (in *carReader) readFull(b []byte) error {
	n, err := io.ReadFull(in.r, b)
	in.at += int64(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return in.malformed(errCutOff)
	}
	return err
}

// section returns the next section without its length, or io.EOF at the end of the
// CAR.
func (in *carReader) section(limit uint64) ([]byte, error) {
	in.start = in.at
	n, err := varint.ReadUvarint(in)
	switch {
	case err == io.EOF && (in.end == math.MaxInt64 || in.at == in.end):
		return nil, io.EOF
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		return nil, in.malformed(errCutOff)
	case err == varint.ErrOverflow, err == varint.ErrNotMinimal:
		return nil, in.malformed(err)
	case err != nil:
		return nil, err
	case n == 0:
		return nil, in.malformed(errors.New("section without a length"))
	case n > limit:
		return nil, in.malformed(fmt.Errorf("section of %d bytes, more than %d", n, limit))
	case int64(n) > in.end-in.at:
		return nil, in.malformed(errors.New("section goes beyond the payload"))
	}
	section := make([]byte, n)
	return section, in.readFull(section)
}

// header reads a CAR header, or the pragma of a CARv2, which is a header with a
// version and no roots.
func (in *carReader) header() (version int64, roots []cid.Cid, err error) {
	data, err := in.section(maxCARHeader)
	if err == io.EOF {
		err = in.malformed(errCutOff)
	}
	if err != nil {
		return 0, nil, err
	}
	version, roots, err = decodeCARHeader(data)
	if err != nil {
		return 0, nil, in.malformed(fmt.Errorf("header: %w", err))
	}
	return version, roots, nil
}

// enterPayload reads the header of a CARv2 and goes to its payload.
func (in *carReader) enterPayload() error {
	in.start = in.at
	var header [carV2HeaderSize]byte
	if err := in.readFull(header[:]); err != nil {
		return err
	}
	// After 16 bytes of characteristics, none of which matters here.
	offset := binary.LittleEndian.Uint64(header[16:])
	size := binary.LittleEndian.Uint64(header[24:])
	if offset < uint64(in.at) || offset > math.MaxInt64 || size > math.MaxInt64-offset {
		return in.malformed(fmt.Errorf("payload of %d bytes at byte %d", size, offset))
	}
	n, err := io.CopyN(io.Discard, in.r, int64(offset)-in.at)
	in.at += n
	if err == io.EOF {
		return in.malformed(errCutOff)
	}
	in.end = int64(offset + size)
	return err
}

func decodeCARSection(section []byte) (blockstore.Block, error) {
	n, c, err := cid.CidFromBytes(section)
	if err != nil {
		return blockstore.Block{}, err
	}
	return blockstore.NewBlock(c, section[n:])
}

// The keys of a CAR header, which is a map in DAG-CBOR.
const (
	carVersion = "version"
	carRoots   = "roots"
)

func encodeCARHeader(root cid.Cid) ([]byte, error) {
	n, err := qp.BuildMap(basicnode.Prototype.Map, 2, func(m datamodel.MapAssembler) {
		qp.MapEntry(m, carRoots, qp.List(1, func(l datamodel.ListAssembler) {
			qp.ListEntry(l, qp.Link(cidlink.Link{Cid: root}))
		}))
		qp.MapEntry(m, carVersion, qp.Int(1))
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = dagcbor.Encode(n, &out)
	return out.Bytes(), err
}

func decodeCARHeader(data []byte) (version int64, roots []cid.Cid, err error) {
	b := basicnode.Prototype.Map.NewBuilder()
	// The budget is for a header of roots, not for one of a million small values.
	opts := dagcbor.DecodeOptions{AllowLinks: true, AllocationBudget: maxCARHeader, MaxDepth: 2}
	if err := opts.Decode(b, bytes.NewReader(data)); err != nil {
		return 0, nil, err
	}
	n := b.Build()
	v, err := n.LookupByString(carVersion)
	if err == nil {
		version, err = v.AsInt()
	}
	if err != nil {
		return 0, nil, err
	}
	list, err := n.LookupByString(carRoots)
	if _, absent := errors.AsType[datamodel.ErrNotExists](err); absent {
		return version, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	if list.Length() > maxCARRoots {
		return 0, nil, fmt.Errorf("%d roots, more than %d", list.Length(), maxCARRoots)
	}
	for i := range list.Length() {
		item, err := list.LookupByIndex(i)
		if err != nil {
			return 0, nil, err
		}
		link, err := item.AsLink()
		if err != nil {
			return 0, nil, fmt.Errorf("root %d: %w", i, err)
		}
		roots = append(roots, link.(cidlink.Link).Cid)
	}
	return version, roots, nil
}
