package dag

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// ErrNotFile reports a directory or a symlink where a file is asked for.
var ErrNotFile = errors.New("not a file")

// filePart is a part of a file that is to be read.
type filePart struct {
	cid  cid.Cid
	size uint64 // bytes of content that the node above claims, if there is one
	top  bool   // there is none above
}

// WriteFile writes the content of a file to w, in order. It reads up to 8 blocks
// ahead, so it holds some 20 MiB at most. What was written when it fails is the start
// of the file.
//
// Every block's content is held against the size that the node above claims for
// it; a difference is ErrMalformed. So it never writes more than the Size that Stat has
// of the file, nor visits more than maxReadDepth nodes for each byte of that: who must
// bound the output, of which a few blocks can make exabytes, asks Stat before. A CID
// that is no file's is ErrNotFile.
func WriteFile(ctx context.Context, get Getter, file cid.Cid, w io.Writer) error {
	first := step[filePart]{cid: file, info: filePart{cid: file, top: true}}
	return descend(ctx, get, first, func(p filePart, b blockstore.Block) ([]step[filePart], error) {
		content, size, below, err := readFilePart(p, b)
		if err != nil {
			return nil, err
		}
		if !p.top && size != p.size {
			return nil, fmt.Errorf("%s: %w: %d bytes of content where %d were claimed", p.cid, ErrMalformed, size, p.size)
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
		return below, nil
	})
}

// readFilePart returns the content in block b, the number of bytes in and below it,
// and the parts below.
func readFilePart(p filePart, b blockstore.Block) (content []byte, size uint64, below []step[filePart], err error) {
	if p.cid.Type() == cid.Raw {
		return b.Data(), uint64(len(b.Data())), nil, nil
	}
	n, u, err := decodeBlock(b)
	if err != nil {
		return nil, 0, nil, err
	}
	if u.Type != typeFile && u.Type != typeRaw {
		return nil, 0, nil, fmt.Errorf("%s is a %s: %w", p.cid, u.Type, ErrNotFile)
	}
	below = make([]step[filePart], 0, len(n.Links))
	for i, l := range n.Links {
		// Parts without content need not be read. Without this, nodes that link
		// many times to each other could keep a reader busy forever for nothing.
		if u.BlockSizes[i] > 0 {
			below = append(below, step[filePart]{cid: l.CID, info: filePart{cid: l.CID, size: u.BlockSizes[i]}})
		}
	}
	return u.Data, u.FileSize, below, nil
}
