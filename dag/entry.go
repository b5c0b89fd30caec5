package dag

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// Kind is what an Entry is.
type Kind uint8

const (
	KindFile Kind = iota + 1
	KindDirectory
	KindSymlink
)

func (k Kind) String() string {
	switch k {
	case KindFile:
		return "file"
	case KindDirectory:
		return "directory"
	case KindSymlink:
		return "symlink"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Entry is a file, directory or symlink.
type Entry struct {
	// Name is any bytes that the publisher chose, empty at the root of a tree. It
	// may be "..", or hold a slash or control characters: check it before making
	// paths of it, quote it before printing.
	Name string
	CID  cid.Cid
	Kind Kind
	// Size is the bytes of a file's content, or of a symlink's target; 0 for a
	// directory. It is a claim until the content has been read: of the directory
	// for a file of one raw block, of the file's root node for others.
	Size   int64
	Target string // of a symlink
	// Mode is the permission bits, and ModTime the modification time, that the
	// publisher recorded; 0 and zero if none, as for every file of one raw block.
	Mode    fs.FileMode
	ModTime time.Time
}

// Stat returns the entry that c is the root of. It reads that one block.
func Stat(ctx context.Context, get Getter, c cid.Cid) (Entry, error) {
	b, err := load(ctx, get, c)
	if err != nil {
		return Entry{}, err
	}
	return blockEntry("", b)
}

// blockEntry returns the entry whose topmost block is b.
func blockEntry(name string, b blockstore.Block) (Entry, error) {
	e := Entry{Name: name, CID: b.CID()}
	if b.CID().Type() == cid.Raw {
		e.Kind, e.Size = KindFile, int64(len(b.Data()))
		return e, nil
	}
	_, u, err := decodeBlock(b)
	if err != nil {
		return Entry{}, err
	}
	e.Mode, e.ModTime = fs.FileMode(u.Mode).Perm(), u.ModTime
	switch u.Type {
	case typeFile, typeRaw:
		e.Kind, e.Size = KindFile, int64(u.FileSize)
	case typeDirectory, typeHAMTShard:
		e.Kind = KindDirectory
	case typeSymlink:
		e.Kind, e.Size, e.Target = KindSymlink, int64(len(u.Data)), string(u.Data)
	default:
		return Entry{}, fmt.Errorf("%s: %w: node of type %s in a tree", b.CID(), ErrMalformed, u.Type)
	}
	return e, nil
}

// rawEntry returns the entry for a link to a raw block, a file of one leaf, without
// reading it. Whatever the link claims, the file is no larger than a block.
func rawEntry(name string, l Link) Entry {
	return Entry{Name: name, CID: l.CID, Kind: KindFile, Size: int64(min(l.Size, blockstore.MaxBlockSize))}
}
