package dag

import (
	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// profile says how files are cut and directories laid out, and so what CID a tree
// gets. All of it is fixed but the chunk size, and but for tests, which shrink it.
type profile struct {
	chunkSize  int // bytes of a leaf, the last of a file excepted; or byContent
	maxLinks   int // links of a file's node
	maxDirSize int // bytes of a directory's block, above which it is sharded
}

// unixfsV1 is the profile unixfs-v1-2025 (IPIP-499): CIDv1, SHA2-256, raw leaves,
// balanced layout, HAMT shards of fanout 256, neither mode nor modification time.
var unixfsV1 = profile{
	chunkSize:  1 << 20,
	maxLinks:   1024,
	maxDirSize: 256 << 10,
}

// part is a piece of a file: a link to a leaf or to a node, and how many bytes of
// content are in it or below it.
type part struct {
	link Link
	size uint64
}

// putLeaf writes a leaf with the given bytes, which it takes over.
func putLeaf(data []byte, put func(blockstore.Block) error) (part, error) {
	size := uint64(len(data))
	b := blockstore.Sum(cid.Raw, data)
	return part{Link{CID: b.CID(), Size: size}, size}, put(b)
}

// putFileNode writes the node that joins consecutive parts of a file. meta is for the
// file's root alone.
func putFileNode(parts []part, meta metadata, put func(blockstore.Block) error) (part, error) {
	u := unixfs{Type: typeFile, BlockSizes: make([]uint64, len(parts)), Mode: meta.mode, ModTime: meta.modTime}
	n := Node{Links: make([]Link, len(parts))}
	for i, p := range parts {
		n.Links[i] = p.link
		u.BlockSizes[i] = p.size
		u.FileSize += p.size
	}
	n.Data = u.Encode()
	link, err := putNode(n, put)
	return part{link, u.FileSize}, err
}

// joinParts writes the balanced tree over the parts of a file and returns its root:
// nodes of maxLinks parts, nodes of maxLinks such nodes, and so on up to a single
// one. One part alone is the file, unless there is metadata, which needs a node.
func (p profile) joinParts(parts []part, meta metadata, put func(blockstore.Block) error) (part, error) {
	if len(parts) == 1 && meta.isZero() {
		return parts[0], nil
	}
	for len(parts) > p.maxLinks {
		var above []part
		for len(parts) > 0 {
			n := min(p.maxLinks, len(parts))
			node, err := putFileNode(parts[:n], metadata{}, put)
			if err != nil {
				return part{}, err
			}
			above = append(above, node)
			parts = parts[n:]
		}
		parts = above
	}
	return putFileNode(parts, meta, put)
}

// putDirectory writes a directory with the given entries, which are sorted bytewise
// by name, and returns an unnamed link to it. A directory whose block would be
// larger than maxDirSize becomes a HAMT.
func (p profile) putDirectory(entries []Link, meta metadata, put func(blockstore.Block) error) (Link, error) {
	u := unixfs{Type: typeDirectory, Mode: meta.mode, ModTime: meta.modTime}
	n := Node{Links: entries, Data: u.Encode()}
	if n.encodedSize() > p.maxDirSize {
		return buildHAMT(entries, meta, put)
	}
	return putNode(n, put)
}

// putSymlink writes a symlink to target and returns an unnamed link to it.
func putSymlink(target string, meta metadata, put func(blockstore.Block) error) (Link, error) {
	u := unixfs{Type: typeSymlink, Data: []byte(target), Mode: meta.mode, ModTime: meta.modTime}
	return putNode(Node{Data: u.Encode()}, put)
}
