package blockstore

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ipfs/boxo/verifcid"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	_ "github.com/multiformats/go-multihash/register/all" // every hash function that CIDs in the wild use
)

// MaxBlockSize is the largest block that is stored, sent or accepted, in bytes:
// the limit that every IPFS implementation shares.
const MaxBlockSize = 2 << 20

var (
	// ErrMismatch reports bytes that do not hash to their CID.
	ErrMismatch = errors.New("bytes do not match their CID")
	// ErrTooLarge reports a block over MaxBlockSize.
	ErrTooLarge = fmt.Errorf("block larger than %d bytes", MaxBlockSize)
)

// Block is an immutable run of bytes and the CID that they hash to. The zero
// Block is not valid.
type Block struct {
	cid    cid.Cid
	data   []byte
	packed []byte // a zstd frame of data, if it came so
}

// CID returns the block's content identifier.
func (b Block) CID() cid.Cid { return b.cid }

// Data returns the block's bytes. They are shared and must not be changed.
func (b Block) Data() []byte { return b.data }

// NewBlock checks that data hashes to c and returns the two as a Block, which
// takes ownership of data. It fails with ErrMismatch, ErrTooLarge, or, for a hash
// function or digest length that is not safe to rely on, with the error of
// CheckCID.
func NewBlock(c cid.Cid, data []byte) (Block, error) {
	if err := CheckCID(c); err != nil {
		return Block{}, err
	}
	if len(data) > MaxBlockSize {
		return Block{}, ErrTooLarge
	}
	sum, err := c.Prefix().Sum(data)
	if err != nil {
		return Block{}, fmt.Errorf("hash %s: %w", c, err)
	}
	if !bytes.Equal(sum.Hash(), c.Hash()) {
		return Block{}, fmt.Errorf("%s: %w", c, ErrMismatch)
	}
	return Block{cid: c, data: data}, nil
}

// Sum hashes data with SHA2-256 and returns it as a Block with a CIDv1 of the
// given codec. It takes ownership of data. It panics if data is larger than
// MaxBlockSize, which is for the caller to see to.
func Sum(codec uint64, data []byte) Block {
	if len(data) > MaxBlockSize {
		panic(ErrTooLarge)
	}
	h, err := multihash.Sum(data, multihash.SHA2_256, -1)
	if err != nil {
		panic(err) // SHA2-256 is always registered
	}
	return Block{cid: cid.NewCidV1(codec, h), data: data}
}

// CheckCID says whether blocks under c can be verified: c is defined, its hash
// function is one that IPFS trusts, and its digest has a safe length (identity
// CIDs carry at most 128 bytes).
func CheckCID(c cid.Cid) error {
	if !c.Defined() {
		return errors.New("undefined CID")
	}
	err := verifcid.ValidateCid(verifcid.DefaultAllowlist, c)
	switch {
	case err == nil:
		return nil
	case c.ByteLen() > maxPrintedCID: // an identity CID may be as long as what it is in
		return fmt.Errorf("CID of %d bytes: %w", c.ByteLen(), err)
	default:
		return fmt.Errorf("%s: %w", c, err)
	}
}

// maxPrintedCID is how long a CID is at most for errors to show it, in bytes.
const maxPrintedCID = 256
